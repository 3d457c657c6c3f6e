// A child process of a test: started, watched, signalled, reaped.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace diffmoe::test {

struct ExitState {
  int exit_code = -1;  // -1 when a signal ended it
  int signal = 0;      // 0 when it ended by itself
  bool operator==(const ExitState&) const = default;
};

struct ProcessOptions {
  // argv[0] is the program: a path, or a name to be found on PATH.
  std::vector<std::string> argv;
  // Added to this process's environment; an empty value removes the variable.
  std::vector<std::pair<std::string, std::string>> environment;
  std::string working_dir;
};

// Thread-safe. The child leads a process group of its own and is killed when the thread that
// started it ends, so start it from the test's main thread. The destructor sends SIGKILL to the
// whole group and reaps the child.
class Process {
 public:
  // Errors: INTERNAL when the program can't be executed.
  static absl::StatusOr<std::unique_ptr<Process>> Start(const ProcessOptions& options);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  // Sends a signal to the child alone. Has no effect once it has been reaped.
  void Signal(int signal);
  bool Running();
  // How the child ended. Its output is complete then, unless a grandchild keeps the pipes open for
  // a second longer. Errors: DEADLINE_EXCEEDED when it still runs after `limit`.
  absl::StatusOr<ExitState> Wait(absl::Duration limit);

  // What the child has written so far (at most the first 64 MB of each stream).
  std::string Out() const;
  std::string Err() const;
  // Waits until standard output or error holds `text`.
  bool WaitForText(const std::string& text, absl::Duration limit);

 private:
  Process(pid_t pid, int out, int err);
  void Read(int descriptor, std::string* into);
  bool Reap() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const pid_t pid_;
  mutable absl::Mutex mutex_;
  std::string out_ ABSL_GUARDED_BY(mutex_);
  std::string err_ ABSL_GUARDED_BY(mutex_);
  int streams_open_ ABSL_GUARDED_BY(mutex_) = 2;
  std::optional<ExitState> exit_ ABSL_GUARDED_BY(mutex_);
  std::thread out_reader_;
  std::thread err_reader_;
};

struct RunResult {
  ExitState exit;
  std::string out;
  std::string err;
};

// Processes whose parent is `parent` and whose command line holds every one of `words`, ascending.
std::vector<pid_t> ChildrenOf(pid_t parent, const std::vector<std::string>& words = {});

// "127.0.0.1:PORT" of the first IPv4 TCP port on which `pid` listens; empty when there is none.
std::string ListeningAddress(pid_t pid);

// Starts a program and waits for its end. Errors: as Start and Wait.
absl::StatusOr<RunResult> RunProcess(const ProcessOptions& options, absl::Duration limit);

}  // namespace diffmoe::test
