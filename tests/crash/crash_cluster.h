// A coordinator and a worker that can be made to end at a kill point, and calls to them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "diffmoe/v1/checkpoint.grpc.pb.h"
#include "diffmoe/v1/cluster.grpc.pb.h"
#include "diffmoe/v1/sampling.grpc.pb.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "tests/support/process.h"

namespace diffmoe::test {

// Where a process ends; no name: nowhere.
struct Armed {
  std::string point;
  int visit = 1;
};

// Use from one thread; the stubs from any.
class CrashCluster {
 public:
  // `dir` exists. Nothing is started.
  explicit CrashCluster(std::string dir) : dir_(std::move(dir)) {}

  // Start a process, in place of one that is killed first, and return at once. Errors: INTERNAL.
  absl::Status LaunchCoordinator(const Armed& armed, const std::vector<std::string>& flags = {});
  absl::Status LaunchWorker(const Armed& armed);
  // As above, and wait until it is ready. Errors: INTERNAL with what it said when it ends first;
  // DEADLINE_EXCEEDED.
  absl::Status StartCoordinator(const std::vector<std::string>& flags = {});
  absl::Status StartWorker();

  // Whether the coordinator has written its addresses; then the stubs reach it. Doesn't wait.
  bool CoordinatorReady();
  Process* coordinator() { return coordinator_.get(); }
  Process* worker() { return worker_.get(); }
  void KillCoordinator();
  void KillWorker();

  std::string CoordinatorDir() const { return dir_ + "/coordinator"; }
  std::string WorkerDir() const { return dir_ + "/worker"; }

  v1::TrainingJobService::Stub& jobs() { return *jobs_; }
  v1::CheckpointService::Stub& checkpoints() { return *checkpoints_; }
  v1::SamplingService::Stub& sampling() { return *sampling_; }
  v1::ClusterService::Stub& cluster() { return *cluster_; }

 private:
  const std::string dir_;
  std::unique_ptr<Process> coordinator_, worker_;
  pid_t connected_pid_ = 0;  // of the coordinator that the stubs reach
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::TrainingJobService::Stub> jobs_;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints_;
  std::unique_ptr<v1::SamplingService::Stub> sampling_;
  std::unique_ptr<v1::ClusterService::Stub> cluster_;
};

// Whether the process has ended at this kill point.
bool EndedAt(Process& process, const std::string& point);

// For messages: the last lines of what a process has said.
std::string LastWords(const Process& process);

}  // namespace diffmoe::test
