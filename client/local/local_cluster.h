// `diffmoe up`: a coordinator and one worker on this machine as one supervised group.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/local/child_process.h"
#include "core/base/clock.h"
#include "nlohmann/json.hpp"

namespace diffmoe {

struct LocalClusterOptions {
  std::string data_dir;     // holds coordinator/, worker/ and logs/
  std::string program_dir;  // holds diffmoe-coordinator and diffmoe-worker
  std::string listen = "127.0.0.1:7070";
  // Of the coordinator; the worker's is one port higher, or any free one for port 0.
  std::string metrics_listen = "127.0.0.1:7071";
  bool console_writes = false;  // of the coordinator
  int slots = 1;
  std::string hint_flags;  // of the commands that are suggested, for example "--data-dir DIR "
  // Restarts of a child: the first after min_backoff, each further one after twice the time, at
  // most max_backoff. A child that was ready for settle_time counts as well again; after
  // max_failures ends in a row the group gives up.
  int64_t min_backoff_ms = 500;
  int64_t max_backoff_ms = 30'000;
  int64_t settle_time_ms = 60'000;
  int max_failures = 4;
  // How long a child may take to end after SIGTERM before SIGKILL.
  int64_t stop_limit_ms = 30'000;
};

// One thread runs it: construct and Run in the main thread, before other threads exist (Run blocks
// the signals that it waits for). Start order: coordinator, then worker, each after the one before
// is ready. Stop order: worker, then coordinator.
class LocalCluster {
 public:
  // `clock` and `out` must outlive it. Messages for the person at the terminal go to `out`.
  LocalCluster(LocalClusterOptions options, const Clock* clock, std::ostream* out);
  ~LocalCluster();

  // Runs until SIGINT, SIGTERM or SIGHUP (then 0), or until a child can't be started (then that
  // child's exit code, after its message). A second signal kills the children at once. Errors: a
  // data directory or program that can't be used.
  absl::StatusOr<int> Run();

 private:
  struct Service {
    std::string name;
    std::string ready_file;
    std::unique_ptr<ChildProcess> child;
    bool ready = false;
    nlohmann::json ready_info;  // content of the ready file
    int64_t ready_ms = 0;
    int64_t start_at_ms = 0;  // when there is no child
    int64_t waiting_since_ms = 0;
    int failures = 0;
  };

  absl::Status Prepare();
  std::vector<std::string> CommandOf(const Service& service) const;
  absl::Status StartService(Service* service);
  // Waits for readiness at the first start. Nothing when ready; else the exit code to end with.
  absl::StatusOr<std::optional<int>> StartAndAwait(Service* service);
  bool CheckReady(Service* service);
  void PrintReady() const;
  // One look at a service while the group runs; an exit code when the group must give up.
  std::optional<int> Supervise(Service* service);
  // True when a signal to stop has come within `timeout_ms`. Returns early when a child ends.
  bool AwaitSignal(int timeout_ms);
  int StopAll(int exit_code);
  void StopService(Service* service);
  int NextTimeoutMs() const;

  LocalClusterOptions options_;
  const Clock& clock_;
  std::ostream& out_;
  int signals_ = -1;
  LogPump logs_;  // its thread comes with the first child, when signals are blocked
  Service coordinator_;
  Service worker_;
};

}  // namespace diffmoe
