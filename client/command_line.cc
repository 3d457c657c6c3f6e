#include "client/command_line.h"

#include <map>
#include <set>

#include "CLI/CLI.hpp"
#include "client/api_status.h"
#include "client/commands/commands.h"
#include "client/output/text.h"
#include "core/base/exit_code.h"
#include "core/base/trace.h"
#include "core/base/version.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

void AddGlobalOptions(CLI::App* app, Context* context) {
  app->add_option(
         "--server", context->endpoint.server,
         "Address of the coordinator (default: $DIFFMOE_SERVER, else the one running in the "
         "data directory, else 127.0.0.1:7070)")
      ->type_name("HOST:PORT");
  app->add_option("--data-dir", context->endpoint.data_dir,
                  "Directory of `diffmoe up` (default: $XDG_DATA_HOME/diffmoe or "
                  "~/.local/share/diffmoe)")
      ->type_name("DIR");
  app->add_option("--traceparent", context->endpoint.traceparent,
                  "W3C trace context that the call belongs to")
      ->type_name("HEADER")
      ->check([](const std::string& text) -> std::string {
        if (ParseTraceparent(text).has_value()) return "";
        return "expected 00-TRACE-SPAN-FLAGS in lower-case hexadecimal digits, got '" + text + "'";
      });
  const std::map<std::string, OutputFormat> formats = {{"table", OutputFormat::kTable},
                                                       {"json", OutputFormat::kJson},
                                                       {"yaml", OutputFormat::kYaml}};
  app->add_option("-o,--output", context->format, "Output of commands that read")
      ->transform(CLI::CheckedTransformer(formats).description(""))
      ->type_name("table|json|yaml");
}

// A word in the place of a command that is none, and the command that is nearest to it.
struct UnknownCommand {
  std::string word;  // empty: all commands are known
  std::string nearest;
};

UnknownCommand FindUnknownCommand(const CLI::App& app, const std::vector<std::string>& arguments) {
  static const std::set<std::string> kWithValue = {"--server", "--data-dir", "-o", "--output",
                                                   "--traceparent"};
  const CLI::App* level = &app;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (kWithValue.contains(arguments[i])) {
      ++i;
      continue;
    }
    if (arguments[i].empty() || arguments[i][0] == '-') continue;
    std::vector<std::string> names;
    const CLI::App* next = nullptr;
    for (const CLI::App* command : level->get_subcommands([](const CLI::App*) { return true; })) {
      names.push_back(command->get_name());
      if (command->get_name() == arguments[i]) next = command;
    }
    if (names.empty()) return {};
    if (next == nullptr) return {arguments[i], NearestName(arguments[i], names)};
    level = next;
  }
  return {};
}

int ReportUsage(const CLI::App& app, const CLI::ParseError& error,
                const std::vector<std::string>& arguments, const Context& context) {
  const UnknownCommand unknown = FindUnknownCommand(app, arguments);
  if (unknown.word.empty()) {
    context.err << "diffmoe: " << CleanText(error.what()) << "\n";
  } else {
    context.err << "diffmoe: no command " << QuoteForMessage(unknown.word)
                << (unknown.nearest.empty() ? "" : "; did you mean `" + unknown.nearest + "`?")
                << "\n";
  }
  context.err << "`diffmoe --help` and `diffmoe COMMAND --help` say how to use it.\n" << std::flush;
  return kExitUsage;
}

}  // namespace

void AddCommands(CLI::App* app, Context* context) {
  app->fallthrough();
  app->set_version_flag("--version", std::string("diffmoe ") + kVersion);
  AddGlobalOptions(app, context);
  for (const auto add :
       {AddUpCommand,     AddSubmitCommand, AddJobsCommand,      AddJobCommand,
        AddWatchCommand,  AddLogsCommand,   AddMetricsCommand,   AddCheckpointCommand,
        AddSampleCommand, AddReplayCommand, AddSampleSetCommand, AddCalibrateCommand,
        AddReportCommand, AddTopCommand,    AddWorkersCommand,   AddExplainCommand,
        AddBenchCommand,  AddAdminCommand,  AddVersionCommand,   AddCompletionCommand}) {
    add(app, context);
  }
  app->require_subcommand(1);
}

int RunCommandLine(const std::vector<std::string>& arguments, Context* context) {
  CLI::App app(
      "Trains DiffMoE diffusion transformers on a pool of workers and makes images with them.",
      "diffmoe");
  AddCommands(&app, context);
  // CLI11 reports by exceptions only; they end here.
  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(std::move(reversed));
  } catch (const CLI::Success& help) {
    return app.exit(help, context->out, context->err);
  } catch (const CLI::ParseError& error) {
    return ReportUsage(app, error, arguments, *context);
  }
  const absl::StatusOr<int> result = context->action();
  if (result.ok()) return *result;
  context->err << DescribeError(result.status()) << std::flush;
  return ExitCodeForError(result.status());
}

}  // namespace diffmoe
