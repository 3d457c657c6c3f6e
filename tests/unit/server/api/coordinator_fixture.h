// A coordinator in the test's process, on free ports of loopback, with delays short enough for a
// unit test.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "diffmoe/v1/checkpoint.grpc.pb.h"
#include "diffmoe/v1/cluster.grpc.pb.h"
#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/sampling.grpc.pb.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "server/coordinator.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::server {

class CoordinatorFixture : public testing::Test {
 protected:
  CoordinatorFixture();

  // Opens the data directory (again).
  void Start();
  // As after a crash, but that queued work is committed: streams end, nothing is said to workers.
  void Stop() { coordinator_.reset(); }

  // A spec that the validator accepts.
  static v1::TrainingSpec GoodSpec(int ranks);
  grpc::Status Submit(const v1::TrainingSpec& spec, const std::string& request_id, v1::Job* job);
  v1::Job Get(const std::string& id);
  // Polls until the job is in the state (or 10 s have passed) and returns it.
  v1::Job WaitForState(const std::string& id, v1::JobState state);
  v1::Job WaitFor(const std::string& id, const std::function<bool(const v1::Job&)>& condition);

  static v1::ErrorDetails DetailsOf(const grpc::Status& status);

  test::TempDir dir_;
  CoordinatorOptions options_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<v1::TrainingJobService::Stub> jobs_;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints_;
  std::unique_ptr<v1::SamplingService::Stub> sampling_;
  std::unique_ptr<v1::ClusterService::Stub> cluster_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace diffmoe::server
