#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/loss_plot.h"
#include "client/names.h"
#include "client/output/views.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kTableRows = 20;
constexpr int kMaxPoints = 2000;

struct MetricsOptions {
  std::string id;
  std::string plot;
  int points = kMaxPoints;
};

absl::StatusOr<int> ShowMetrics(const Context& context, const MetricsOptions& options) {
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
  command->callback([context, options] {
    context->action = [context, options] { return ShowMetrics(*context, *options); };
  });
}

}  // namespace diffmoe
