// A daemon started as a child: output into a log file, ends with its parent.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/log_pump.h"

namespace diffmoe {

// Not thread-safe. Start it from the main thread: the kernel sends the child SIGTERM when the
// thread that started it ends (PR_SET_PDEATHSIG). The child has a process group of its own, so
// Ctrl-C on the terminal doesn't reach it.
class ChildProcess {
 public:
  // Runs argv[0] (a path) with standard input from /dev/null and both outputs in the log
  // `log_path`, kept by `logs`, which outlives the child. Errors: NOT_FOUND or PERMISSION_DENIED
  // for a program or log file that can't be used, RESOURCE_EXHAUSTED when no process can be made;
  // the message names the file.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const std::vector<std::string>& argv,
                                                             LogPump* logs,
                                                             const std::string& log_path);
  // Kills a child that still runs, and reaps it.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // The exit code of a child that has ended (128 + signal when a signal ended it); nothing while it
  // runs.
  std::optional<int> ExitCode();
  // Nothing happens when the child has ended.
  void Signal(int signal);
  // What it has written since its start: the last lines, at most 4 KiB.
  std::string LastOutput() const;

 private:
  ChildProcess(pid_t pid, std::shared_ptr<ChildLog> log);

  const pid_t pid_;
  const std::shared_ptr<ChildLog> log_;
  std::optional<int> exit_code_;
};

}  // namespace diffmoe
