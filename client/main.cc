// diffmoe: the command-line client.
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "client/command_line.h"
#include "core/base/clock.h"
#include "core/base/mutex_checks.h"

int main(int argc, char** argv) {
  // A closed pipe (`diffmoe jobs | head`) is an error of the write, not the end of the process.
  diffmoe::TurnOffMutexChecks();
  std::signal(SIGPIPE, SIG_IGN);
  diffmoe::SystemClock clock;
  diffmoe::ProgressOptions progress;
  progress.terminal = isatty(STDERR_FILENO) == 1;
  winsize size{};
  if (progress.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) {
    progress.columns = size.ws_col;
  }
  std::error_code error;
  const std::string executable = std::filesystem::read_symlink("/proc/self/exe", error).string();
  diffmoe::Context context{.out = std::cout,
                           .err = std::cerr,
                           .clock = clock,
                           .progress = progress,
                           .out_terminal = isatty(STDOUT_FILENO) == 1,
                           .executable = executable,
                           .endpoint = {},
                           .format = diffmoe::OutputFormat::kTable,
                           .action = {}};
  return diffmoe::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc), &context);
}
