#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/loss_plot.h"
#include "client/names.h"
#include "client/report/evaluation.h"
#include "client/report/html_report.h"
#include "client/report/job_report.h"
#include "client/report/report_parts.h"
#include "client/sample_call.h"
#include "client/sample_images.h"
#include "core/base/atomic_file.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"
#include "core/eval/png.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

constexpr int kMaxRecords = 10'000;
constexpr int kMaxImages = 1024;

struct ReportOptions {
  std::string id;
  std::string out = "report";
  std::string html;  // empty: report.html in `out`
  int count = 10;
  int steps = 50;
  double guidance = 2;
  uint64_t seed = 1;
};

absl::Status FetchTraining(ApiClient* client, const std::string& id, JobReport* report) {
  v1::GetJobRequest job;
  ASSIGN_OR_RETURN(*job.mutable_name(), JobName(id));
  ASSIGN_OR_RETURN(report->job, client->GetJob(job));
  v1::ListStepRecordsRequest records;
  records.set_name(job.name());
  records.set_max_points(kMaxRecords);
  ASSIGN_OR_RETURN(report->records, client->ListStepRecords(records));
  v1::GetCheckpointRequest checkpoint;
  ASSIGN_OR_RETURN(*checkpoint.mutable_name(), CheckpointName(id, "latest"));
  ASSIGN_OR_RETURN(report->checkpoint, client->GetCheckpoint(checkpoint));
  return absl::OkStatus();
}

// `count` images of every class, as many classes as fit into one request.
v1::SampleRequest MakeRequest(const JobReport& report, const ReportOptions& options) {
  v1::SampleRequest request;
  request.set_checkpoint(report.checkpoint.name());
  for (int label = 0; label < report.job.spec().model().classes(); ++label) {
    if (request.classes_size() + options.count > kMaxImages) break;
    for (int i = 0; i < options.count; ++i) request.add_classes(label);
  }
  request.set_count(request.classes_size());
  request.set_seed(options.seed);
  request.set_steps(options.steps);
  request.set_guidance(options.guidance);
  return request;
}

// The page with everything in it.
absl::Status WriteHtml(const Context& context, ApiClient* client, Interrupt* interrupt,
                       const ReportOptions& options, const JobReport& report,
                       const std::vector<Image>& images, const std::string& path) {
  HtmlReport html;
  html.report = report;
  ASSIGN_OR_RETURN(
      const Image grid,
      MakeGrid(images, {.columns = options.count,
                        .scale = DefaultScale(images.front().height, images.front().width)}));
  ASSIGN_OR_RETURN(html.samples_png,
                   EncodePng(grid.height, grid.width, grid.channels, grid.pixels));
  RETURN_IF_ERROR(FillReportParts(
      context, client, interrupt,
      {.steps = options.steps, .guidance = options.guidance, .seed = options.seed}, &html));
  return WriteFileAtomically(path, HtmlReportText(html));
}

absl::StatusOr<int> Report(const Context& context, const ReportOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) return FileError(error.value(), "make directory", options.out);
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  JobReport report;
  RETURN_IF_ERROR(FetchTraining(&client, options.id, &report));
  RETURN_IF_ERROR(WriteLossPlot(options.out + "/loss.png", report.job.id(), report.records));

  const v1::SampleRequest request = MakeRequest(report, options);
  SampleImages images(request.count());
  const absl::StatusOr<v1::Receipt> receipt =
      RunSampleCall(context, &client, &interrupt, request, &images);
  if (!receipt.ok() && interrupt.triggered()) return kExitInterrupted;
  RETURN_IF_ERROR(receipt.status());
  report.receipt = *receipt;
  RETURN_IF_ERROR(images.WriteGrid(options.out + "/samples.png", options.count, /*scale=*/0));

  ASSIGN_OR_RETURN(const std::vector<Image> all, images.All());
  ASSIGN_OR_RETURN(report.evaluation,
                   EvaluateAgainstData(report.job.spec(), all,
                                       {request.classes().begin(), request.classes().end()}));
  const nlohmann::ordered_json json = ReportJson(report);
  RETURN_IF_ERROR(WriteFileAtomically(options.out + "/report.json", json.dump(2) + "\n"));
  const std::string page = options.html.empty() ? options.out + "/report.html" : options.html;
  const absl::Status written = WriteHtml(context, &client, &interrupt, options, report, all, page);
  if (!written.ok() && interrupt.triggered()) return kExitInterrupted;
  RETURN_IF_ERROR(written);
  context.err << "wrote samples.png, loss.png and report.json to " << options.out << ", and "
              << page << "\n"
              << std::flush;
  context.out << (context.format == OutputFormat::kTable ? ReportText(report)
                                                         : JsonText(json, context.format))
              << std::flush;
  return kExitOk;
}

}  // namespace

void AddReportCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command = app->add_subcommand(
      "report",
      "What a job achieved: loss curve, experts, samples of every class and through training, "
      "distance to its data; one HTML page and its parts");
  command->add_option("ID", options->id, "Id of the job")->required();
  command
      ->add_option("--out", options->out,
                   "Directory for report.html, samples.png, loss.png and report.json")
      ->type_name("DIR")
      ->capture_default_str();
  command->add_option("--html", options->html, "The page (default: report.html in --out)")
      ->type_name("FILE");
  command->add_option("--n", options->count, "Images per class")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command->add_option("--steps", options->steps, "Denoise steps, 1 to 1000")->capture_default_str();
  command->add_option("--guidance", options->guidance, "Classifier-free guidance scale, 0 to 100")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Same seed, same images")->capture_default_str();
  command->callback([context, options] {
    context->action = [context, options] { return Report(*context, *options); };
  });
}

}  // namespace diffmoe
