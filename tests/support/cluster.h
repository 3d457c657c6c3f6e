// A real cluster in a temporary directory: the built programs on free ports of loopback, and the
// command-line client.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {

// Path of a built program, for example Program("diffmoe-worker").
std::string Program(const std::string& name);

// Waits until `path` holds a JSON object whose "pid" is `pid` (daemons write such a file when they
// are ready). Gives up early when `running` says that the process has ended. Errors:
// DEADLINE_EXCEEDED.
absl::StatusOr<nlohmann::json> WaitForReadyFile(
    const std::string& path, pid_t pid, absl::Duration limit,
    absl::FunctionRef<bool()> running = [] { return true; });

struct ClusterOptions {
  int slots = 3;
  std::vector<std::string> coordinator_flags;
  std::vector<std::string> worker_flags;
  // Added to the coordinator's environment.
  std::vector<std::pair<std::string, std::string>> coordinator_environment;
  // Another directory than the cluster's own temporary one, to go on with its contents.
  std::string data_dir;
};

// Use from one thread. Coordinator and worker may be started, killed and started again in any
// order; the worker finds the coordinator through its ready file, so a restart on another port is
// found as well. The destructor kills everything.
class Cluster {
 public:
  explicit Cluster(ClusterOptions options = {});
  ~Cluster();

  // Coordinator and worker as two processes; return when they are ready.
  absl::Status Start();
  absl::Status StartCoordinator();
  absl::Status StartWorker();
  // Slots of workers that are started from now on.
  void set_slots(int slots) { options_.slots = slots; }
  // Where workers that are started from now on look for the coordinator: an address, for example
  // of a proxy, instead of its ready file.
  void set_worker_coordinator(const std::string& address) { worker_coordinator_ = address; }
  // The same as one `diffmoe up`.
  absl::Status StartUp();

  Process* coordinator() { return coordinator_.get(); }
  Process* worker() { return worker_.get(); }
  Process* up() { return up_.get(); }
  // SIGKILL, and waits for the end.
  void KillCoordinator();
  void KillWorker();

  const std::string& dir() const { return dir_; }
  std::string CoordinatorDir() const { return dir_ + "/coordinator"; }
  std::string WorkerDir() const { return dir_ + "/worker"; }
  // Addresses of the processes that run now; empty before the start.
  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& coordinator_metrics() const { return coordinator_metrics_; }
  const std::string& worker_metrics() const { return worker_metrics_; }

  // Runs `diffmoe ARGUMENT...` against this cluster.
  absl::StatusOr<RunResult> Cli(const std::vector<std::string>& arguments,
                                absl::Duration limit = absl::Seconds(30));
  absl::StatusOr<std::unique_ptr<Process>> StartCli(const std::vector<std::string>& arguments);
  // Runs `diffmoe ARGUMENT... -o json`. Errors: INTERNAL when it fails or prints something else.
  absl::StatusOr<nlohmann::json> CliJson(std::vector<std::string> arguments,
                                         absl::Duration limit = absl::Seconds(30));

 private:
  ProcessOptions CliOptions(const std::vector<std::string>& arguments) const;
  absl::Status ReadCoordinatorAddresses(pid_t pid);
  absl::Status ReadWorkerAddresses(pid_t pid);

  ClusterOptions options_;
  TempDir temp_dir_;
  std::string dir_;
  std::string grpc_address_, coordinator_metrics_, worker_metrics_;
  std::string worker_coordinator_;
  std::unique_ptr<Process> coordinator_;
  std::unique_ptr<Process> worker_;
  std::unique_ptr<Process> up_;
};

}  // namespace diffmoe::test
