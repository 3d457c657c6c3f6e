// What the ranks of a simulated job will do, decided before it is submitted.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace diffmoe::simulation {

enum class JobKind {
  kHealthy,
  kBadInput,       // rank 0 reports INVALID_ARGUMENT at the start
  kEndless,        // trains until it is cancelled
  kRepeatedError,  // a rank reports the same INTERNAL error at the same step, every time
};

struct JobPlan {
  JobKind kind = JobKind::kHealthy;
  int64_t error_step = 0;
  int64_t step_ms = 100;
};

// By the name in the spec; every simulated job has its own.
using JobPlans = std::map<std::string, JobPlan>;

}  // namespace diffmoe::simulation
