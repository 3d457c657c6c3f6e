#include "CLI/CLI.hpp"
#include "client/api_client.h"
#include "client/commands/commands.h"
#include "client/output/views.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

absl::StatusOr<int> ListWorkers(const Context& context) {
  ApiClient client(context.endpoint);
  ASSIGN_OR_RETURN(const v1::ListWorkersResponse workers, client.ListWorkers({}));
  return context.PrintMessage(workers,
                              [&] { return WorkersTable(workers, context.clock.UnixMs()); });
}

}  // namespace

void AddWorkersCommand(CLI::App* app, Context* context) {
  CLI::App* command = app->add_subcommand("workers", "List workers and who uses their slots");
  command->callback([context] { context->action = [context] { return ListWorkers(*context); }; });
}

}  // namespace diffmoe
