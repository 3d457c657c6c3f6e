#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/live_screen.h"
#include "client/loss_plot.h"
#include "client/names.h"
#include "client/output/progress.h"
#include "client/output/sparkline.h"
#include "client/output/text.h"
#include "client/output/views.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kTableRows = 20;
constexpr int kMaxPoints = 2000;
constexpr int kLineWidth = 60;

struct MetricsOptions {
  std::string id;
  std::string plot;
  int points = kMaxPoints;
  bool watch = false;
  int frames = 0;
};

std::string Line(const std::string& name, const std::vector<double>& values) {
  return absl::StrFormat("%-10s %12s  %s\n", name, values.empty() ? "-" : NumberText(values.back()),
                         Sparkline(values, kLineWidth));
}

std::string WatchFrame(const v1::Job& job, const v1::ListStepRecordsResponse& records) {
  std::vector<double> loss, predictor, gradient, rate;
  for (const v1::StepRecord& record : records.records()) {
    loss.push_back(record.loss());
    predictor.push_back(record.predictor_loss());
    gradient.push_back(record.grad_norm());
    rate.push_back(record.learning_rate());
  }
  return absl::StrCat(JobLine(job), "\n\n", Line("loss", loss), Line("predictor", predictor),
                      Line("grad norm", gradient), Line("rate", rate));
}

bool HasEnded(const v1::Job& job) {
  return job.state() == v1::SUCCEEDED || job.state() == v1::FAILED || job.state() == v1::CANCELLED;
}

// Ends with the job.
absl::StatusOr<int> WatchMetrics(const Context& context, const MetricsOptions& options) {
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  v1::GetJobRequest get;
  v1::ListStepRecordsRequest list;
  ASSIGN_OR_RETURN(*get.mutable_name(), JobName(options.id));
  list.set_name(get.name());
  list.set_max_points(kLineWidth);
  return RunLiveScreen(context, &interrupt, absl::Seconds(1), options.frames,
                       [&](bool* last) -> absl::StatusOr<std::string> {
                         ASSIGN_OR_RETURN(const v1::Job job, client.GetJob(get));
                         ASSIGN_OR_RETURN(const v1::ListStepRecordsResponse records,
                                          client.ListStepRecords(list));
                         *last = HasEnded(job);
                         return WatchFrame(job, records);
                       });
}

absl::StatusOr<int> ShowMetrics(const Context& context, const MetricsOptions& options) {
  if (options.watch) return WatchMetrics(context, options);
  ApiClient client(context.endpoint);
  v1::ListStepRecordsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), JobName(options.id));
  request.set_max_points(options.points);
  ASSIGN_OR_RETURN(const v1::ListStepRecordsResponse records, client.ListStepRecords(request));
  if (!options.plot.empty()) {
    RETURN_IF_ERROR(WriteLossPlot(options.plot, options.id, records));
    context.err << "wrote " << options.plot << "\n" << std::flush;
  }
  return context.PrintMessage(records, [&] { return StepRecordsTable(records, kTableRows); });
}

}  // namespace

void AddMetricsCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<MetricsOptions>();
  CLI::App* command = app->add_subcommand("metrics", "Loss and other numbers of a job by step");
  command->add_option("ID", options->id, "Id of the job")->required();
  command->add_option("--plot", options->plot, "Write the loss curve to this PNG file")
      ->type_name("FILE");
  command->add_option("--points", options->points, "Most steps to fetch, evenly spaced")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command->add_flag("-w,--watch", options->watch,
                    "Draw the curves again every second until the job ends");
  command->add_option("--frames", options->frames, "With --watch: ends after so many looks")
      ->check(CLI::Range(1, 1'000'000));
  command->callback([context, options] {
    context->action = [context, options] { return ShowMetrics(*context, *options); };
  });
}

}  // namespace diffmoe
