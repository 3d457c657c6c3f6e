// The flags that say what to sample, shared by the commands that do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/api_client.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe {

struct SampleFlags {
  std::string job;
  std::string classes;
  std::string seed;
  std::optional<int> steps;
  std::optional<double> guidance;
  std::string guidance_interval;
  std::string sampler;
  std::optional<double> eta;
  std::optional<double> capacity;
  std::string threshold_rule;
  std::optional<int> size;
  std::optional<int> negative_class;
  std::string user;  // empty: the login name
};

// Adds --job, --class and the flags of the sampler; `flags` must outlive the parsing.
void AddSampleFlags(CLI::App* command, SampleFlags* flags);

// A request with everything but classes and count. Usage errors name the flag.
absl::StatusOr<v1::SampleRequest> RequestFromFlags(const SampleFlags& flags);

// The classes that --class stands for; "all" asks the coordinator for the job.
absl::StatusOr<std::vector<int32_t>> ClassesFromFlag(ApiClient* client, const std::string& text,
                                                     const std::string& checkpoint);

// "jobs/ID" of "jobs/ID" or "jobs/ID/checkpoints/STEP".
std::string JobOfCheckpoint(const std::string& checkpoint);

// The name that this process's user logs in with; "unknown" when the system knows none.
std::string LoginName();

}  // namespace diffmoe
