#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/names.h"
#include "client/output/views.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int kPageSize = 100;
// A bound on the checkpoints that one command lists.
constexpr int kMaxCheckpoints = 100'000;

struct GetOptions {
  std::string id;
  std::string step = "latest";
  bool history = false;
  int points = 50;
  bool tensors = false;
};

absl::StatusOr<int> ListCheckpoints(const Context& context, const std::string& id) {
  ApiClient client(context.endpoint);
  v1::ListCheckpointsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_parent(), JobName(id));
  request.set_page_size(kPageSize);
  v1::ListCheckpointsResponse all;
  do {
    ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse page, client.ListCheckpoints(request));
    for (const v1::Checkpoint& checkpoint : page.checkpoints()) *all.add_checkpoints() = checkpoint;
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && all.checkpoints_size() < kMaxCheckpoints);
  return context.PrintMessage(all, [&] { return CheckpointsTable(all, context.clock.UnixMs()); });
}

absl::StatusOr<int> ShowHistory(const Context& context, const GetOptions& options) {
  ApiClient client(context.endpoint);
  v1::ListThresholdsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_parent(), JobName(options.id));
  request.set_max_points(options.points);
  ASSIGN_OR_RETURN(const v1::ListThresholdsResponse history, client.ListThresholds(request));
  return context.PrintMessage(history, [&] { return ThresholdsTable(history); });
}

absl::StatusOr<int> GetCheckpoint(const Context& context, const GetOptions& options) {
  if (options.history) return ShowHistory(context, options);
  ApiClient client(context.endpoint);
  v1::GetCheckpointRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), CheckpointName(options.id, options.step));
  ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, client.GetCheckpoint(request));
  return context.PrintMessage(checkpoint,
                              [&] { return CheckpointText(checkpoint, options.tensors); });
}

}  // namespace

void AddCheckpointCommand(CLI::App* app, Context* context) {
  CLI::App* command =
      app->add_subcommand("ckpt", "Look at a job's checkpoints, keep, check or export them");
  command->require_subcommand(1);

  auto id = std::make_shared<std::string>();
  CLI::App* list = command->add_subcommand("ls", "List committed checkpoints, newest first");
  list->add_option("ID", *id, "Id of the job")->required();
  list->callback([context, id] {
    context->action = [context, id] { return ListCheckpoints(*context, *id); };
  });

  auto options = std::make_shared<GetOptions>();
  CLI::App* get = command->add_subcommand("get", "A checkpoint with its thresholds");
  get->add_option("ID", options->id, "Id of the job")->required();
  get->add_option("STEP", options->step, "Step of the checkpoint, or latest")
      ->capture_default_str();
  get->add_flag("--tensors", options->tensors, "List the tensors too");
  get->add_flag("--history", options->history,
                "The thresholds of every layer and expert over the whole training instead");
  get->add_option("--points", options->points, "Most steps of the history, evenly spaced")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  get->callback([context, options] {
    context->action = [context, options] { return GetCheckpoint(*context, *options); };
  });

  AddCheckpointChanges(command, context);
  AddExportCommand(command, context);
}

}  // namespace diffmoe
