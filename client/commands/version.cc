#include "core/base/version.h"

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "core/base/exit_code.h"
#include "nlohmann/json.hpp"

namespace diffmoe {

void AddVersionCommand(CLI::App* app, Context* context) {
  CLI::App* command = app->add_subcommand("version", "Version of this program");
  command->callback([context] {
    context->action = [context]() -> absl::StatusOr<int> {
      if (context->format == OutputFormat::kTable) {
        context->out << "diffmoe " << kVersion << " (protocol " << kProtocolVersion << ")\n";
      } else {
        context->out << JsonText({{"version", kVersion}, {"protocol", kProtocolVersion}},
                                 context->format);
      }
      context->out << std::flush;
      return kExitOk;
    };
  });
}

}  // namespace diffmoe
