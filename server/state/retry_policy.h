// How often an attempt may be tried again, and after which pause, by the cause of its end.
#pragma once

#include <cstdint>

#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe::server {

struct RetryPolicy {
  // Failures of this cause that a job survives; parallel.max_restarts bounds them as well. Failures
  // that aren't the job's fault are not counted.
  bool counted = true;
  int budget = 1000;
  // Pause before the n-th retry in a row without a new checkpoint: nothing before the first (unless
  // pause_first), then first_pause_ms, doubled each time.
  bool pause_first = false;
  int64_t first_pause_ms = 1000;
};

RetryPolicy PolicyOf(v1::EndCause cause);

// Pause before the next attempt; `failures_in_a_row` counts this one.
int64_t PauseMs(const RetryPolicy& policy, int failures_in_a_row, int64_t longest_ms);

// Several ranks end for several causes: the strongest is the culprit, others are its consequences.
// Larger is stronger.
int Strength(v1::EndCause cause);

}  // namespace diffmoe::server
