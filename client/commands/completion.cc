#include "client/completion.h"

#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/commands/commands.h"
#include "core/base/exit_code.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

void Collect(const CLI::App& level, const std::string& path,
             std::vector<CompletionWords>* commands) {
  CompletionWords words{path, {}};
  const auto all = level.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* command : all) words.words.push_back(command->get_name());
  for (const CLI::Option* option : level.get_options()) {
    for (const std::string& name : option->get_lnames()) words.words.push_back("--" + name);
  }
  commands->push_back(std::move(words));
  for (const CLI::App* command : all) {
    Collect(*command, path.empty() ? command->get_name() : path + " " + command->get_name(),
            commands);
  }
}

absl::StatusOr<int> PrintCompletion(const Context& context, const CLI::App& app,
                                    const std::string& shell) {
  std::vector<CompletionWords> commands;
  Collect(app, "", &commands);
  ASSIGN_OR_RETURN(const std::string script, CompletionScript(shell, commands));
  context.out << script << std::flush;
  return kExitOk;
}

}  // namespace

void AddCompletionCommand(CLI::App* app, Context* context) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app->add_subcommand(
      "completion", "Print a completion script: eval \"$(diffmoe completion bash)\"");
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([context, app, shell] {
    context->action = [context, app, shell] { return PrintCompletion(*context, *app, *shell); };
  });
}

}  // namespace diffmoe
