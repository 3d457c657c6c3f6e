// Child processes: start and death. Call from one thread that lives as long
// as the program: a child is killed by the kernel when the thread that started it ends.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace diffmoe {

struct SpawnOptions {
  std::string binary;
  std::vector<std::string> arguments;  // without argv[0]
  std::vector<std::pair<std::string, std::string>>
      environment;  // added to the own one, or replacing
  int log_fd = -1;  // becomes stdout and stderr; stays the caller's
};

// The child runs in a process group of its own, has only its three standard descriptors, default
// signal handling, and dies with this process. Errors name the binary and come also when exec
// itself fails.
absl::StatusOr<pid_t> Spawn(const SpawnOptions& options);

struct ProcessExit {
  int code = 0;    // when it ended by itself
  int signal = 0;  // when a signal killed it; else 0
};

// Reaps a child that has ended and kills what is left of its process group; nothing while it runs.
std::optional<ProcessExit> Reap(pid_t pid);

// Sends `signal` to the child's process group.
void SignalGroup(pid_t pid, int signal);

// State of a process in the kernel's words, "T (stopped)"; "gone" when there is none.
std::string ProcessState(pid_t pid);

}  // namespace diffmoe
