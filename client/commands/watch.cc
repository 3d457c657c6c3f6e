#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "client/follow.h"
#include "client/names.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

absl::StatusOr<int> Watch(const Context& context, const std::string& id) {
  ASSIGN_OR_RETURN(const std::string name, JobName(id));
  Interrupt interrupt;
  ApiClient client(context.endpoint);
  return FollowJob(context, &client, &interrupt, name);
}

}  // namespace

void AddWatchCommand(CLI::App* app, Context* context) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = app->add_subcommand(
      "watch", "Follow a job to its end; Ctrl-C detaches and leaves it running");
  command->add_option("ID", *id, "Id of the job")->required();
  command->callback(
      [context, id] { context->action = [context, id] { return Watch(*context, *id); }; });
}

}  // namespace diffmoe
