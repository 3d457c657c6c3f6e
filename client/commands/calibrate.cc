#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/commands/sample_flags.h"
#include "client/names.h"
#include "client/output/text.h"
#include "client/output/views.h"
#include "client/sample_call.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

struct CalibrateOptions {
  std::string job;
  std::optional<int> images;
  std::string capacities;
  bool show = false;
  std::string deadline;
};

absl::StatusOr<int> Show(const Context& context, const std::string& checkpoint) {
  ApiClient client(context.endpoint);
  v1::GetCalibrationRequest request;
  request.set_checkpoint(checkpoint);
  ASSIGN_OR_RETURN(const v1::Calibration calibration, client.GetCalibration(request));
  return context.PrintMessage(calibration, [&] { return CalibrationText(calibration); });
}

absl::StatusOr<v1::CalibrateCheckpointRequest> MakeRequest(const CalibrateOptions& options) {
  v1::CalibrateCheckpointRequest request;
  ASSIGN_OR_RETURN(*request.mutable_checkpoint(), CheckpointNameFromReference(options.job));
  if (options.images.has_value()) request.set_images(*options.images);
  if (!options.capacities.empty()) {
    ASSIGN_OR_RETURN(const std::vector<double> targets,
                     ParseNumbers("--capacities", options.capacities));
    for (double target : targets) request.add_capacities(target);
  }
  request.set_user(LoginName());
  return request;
}

absl::StatusOr<v1::Calibration> RunCalibration(const Context& context, ApiClient* client,
                                               Interrupt* interrupt,
                                               const v1::CalibrateCheckpointRequest& request,
                                               absl::Duration limit) {
  std::optional<v1::Calibration> calibration;
  ProgressPrinter printer(&context.err, &context.clock, context.progress);
  const auto on_event = [&](const v1::CalibrateCheckpointResponse& event) {
    if (event.has_queued()) printer.Set(QueuedLine(event.queued()));
    if (event.has_progress()) {
      printer.Set(absl::StrCat(BarText(event.progress().done(), 20), "  ",
                               CleanText(event.progress().doing())));
    }
    if (event.has_finished()) calibration = event.finished();
    return absl::OkStatus();
  };
  const absl::Status status =
      client->CalibrateCheckpoint(request, interrupt, on_event, absl::Now() + limit);
  printer.Finish();
  if (status.code() == absl::StatusCode::kDeadlineExceeded && limit != absl::InfiniteDuration()) {
    return OwnDeadlineError(
        absl::StrCat("the deadline of ", absl::FormatDuration(limit), " passed"));
  }
  RETURN_IF_ERROR(status);
  if (!calibration.has_value()) {
    return absl::DataLossError("expected a calibration, got the end of the stream");
  }
  return *calibration;
}

absl::StatusOr<int> Calibrate(const Context& context, const CalibrateOptions& options) {
  ASSIGN_OR_RETURN(const v1::CalibrateCheckpointRequest request, MakeRequest(options));
  if (options.show) return Show(context, request.checkpoint());
  absl::Duration limit = absl::InfiniteDuration();
  if (!options.deadline.empty()) {
    ASSIGN_OR_RETURN(limit, ParsePositiveDuration("--deadline", options.deadline));
  }
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  const absl::StatusOr<v1::Calibration> calibration =
      RunCalibration(context, &client, &interrupt, request, limit);
  if (!calibration.ok() && interrupt.triggered()) {
    context.err << "Interrupted; an older calibration stays.\n" << std::flush;
    return kExitInterrupted;
  }
  RETURN_IF_ERROR(calibration.status());
  return context.PrintMessage(*calibration, [&] { return CalibrationText(*calibration); });
}

}  // namespace

void AddCalibrateCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<CalibrateOptions>();
  CLI::App* command = app->add_subcommand(
      "calibrate", "Find the thresholds with which a checkpoint uses a wanted number of experts");
  command->add_option("JOB", options->job, "Newest checkpoint of a job, or the one of a step")
      ->type_name("JOB[@step=N|@latest]")
      ->required();
  command->add_option("--images", options->images, "Held-out images, 16 to 10000 (default: 256)");
  command
      ->add_option("--capacities", options->capacities,
                   "Experts per token to calibrate for, ascending (default: "
                   "0.5,0.75,1,1.25,1.5,1.75,2)")
      ->type_name("C,C,...");
  command->add_flag("--show", options->show, "Only show the calibration that the checkpoint has");
  command->add_option("--deadline", options->deadline, "Time for the whole calibration")
      ->type_name("DURATION");
  command->callback([context, options] {
    context->action = [context, options] { return Calibrate(*context, *options); };
  });
}

}  // namespace diffmoe
