#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/commands/commands.h"
#include "client/local/local_cluster.h"
#include "client/output/text.h"

namespace diffmoe {
namespace {

// One rank per core, and one sampler beside them.
int DefaultSlots() {
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency())) + 1;
}

absl::StatusOr<int> Up(const Context& context, LocalClusterOptions options) {
  std::error_code error;
  const std::string data_dir = DataDir(context.endpoint);
  options.data_dir = std::filesystem::absolute(data_dir, error).lexically_normal().string();
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("data directory ", data_dir));
  options.program_dir = std::filesystem::path(context.executable).parent_path().string();
  if (!context.endpoint.data_dir.empty()) {
    options.hint_flags = absl::StrCat("--data-dir ", CleanText(options.data_dir), " ");
  }
  return LocalCluster(std::move(options), &context.clock, &context.err).Run();
}

}  // namespace

void AddUpCommand(CLI::App* app, Context* context) {
  auto options = std::make_shared<LocalClusterOptions>();
  options->slots = DefaultSlots();
  CLI::App* command = app->add_subcommand(
      "up", "Run a coordinator and a worker on this machine; Ctrl-C stops them");
  command
      ->add_option("--slots", options->slots, "CPU slots of the worker: ranks and samplers at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--listen", options->listen, "Address of the API; port 0 takes a free one")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command
      ->add_option("--metrics-listen", options->metrics_listen,
                   "Address of the web console and /metrics; the worker's /metrics is one port "
                   "higher; port 0 "
                   "takes free ones")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command->add_flag("--console-writes", options->console_writes,
                    "Let the web console sample and cancel, pause and resume jobs");
  command->callback([context, options] {
    context->action = [context, options] { return Up(*context, *options); };
  });
}

}  // namespace diffmoe
