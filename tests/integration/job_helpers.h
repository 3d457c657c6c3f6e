// Submitting and watching jobs through the command-line client, as a script would.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "diffmoe/v1/training_job.pb.h"
#include "nlohmann/json.hpp"
#include "tests/support/cluster.h"

namespace diffmoe::test {

// deploy/jobs/fashion-smoke.yaml: a tiny model on two ranks, 40 steps.
std::string SmokeJob();

// The integer `key` of a message in protobuf's JSON, where 64-bit numbers are strings; -1 when
// absent.
int64_t Int(const nlohmann::json& message, const std::string& key);

// Submits the smoke job with some fields set otherwise ("train.steps=50"); returns its id.
absl::StatusOr<std::string> SubmitSmoke(Cluster& cluster,
                                        const std::vector<std::string>& overrides = {});

// Waits until `condition` holds for the job; returns the job as it was then. While the coordinator
// is away the wait goes on. Errors: DEADLINE_EXCEEDED with the last known job.
absl::StatusOr<nlohmann::json> AwaitJob(Cluster& cluster, const std::string& id,
                                        absl::Duration limit,
                                        absl::FunctionRef<bool(const nlohmann::json&)> condition);
absl::StatusOr<nlohmann::json> AwaitState(Cluster& cluster, const std::string& id,
                                          const std::string& state, absl::Duration limit);

// The job as the coordinator knows it; an empty one while it is away. Straight over gRPC: starting
// a program for each look would disturb the ranks.
v1::Job LookAtJob(Cluster& cluster, const std::string& id);

// Whether the job trains and has saved and gone on after at least `checkpoint_step`.
bool RunsPast(const nlohmann::json& job, int64_t checkpoint_step);

}  // namespace diffmoe::test
