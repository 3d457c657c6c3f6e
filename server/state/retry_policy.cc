#include "server/state/retry_policy.h"

#include <algorithm>
#include <array>

namespace diffmoe::server {
namespace {

// Weakest first.
constexpr std::array kByStrength = {
    v1::END_CAUSE_PEER_LOST,      v1::END_CAUSE_COORDINATOR_RESTART,
    v1::END_CAUSE_WORKER_STOPPED, v1::END_CAUSE_WORKER_LOST,
    v1::END_CAUSE_ERROR,          v1::END_CAUSE_CORRUPT_CHECKPOINT,
    v1::END_CAUSE_SPAWN,          v1::END_CAUSE_EXIT_CODE,
    v1::END_CAUSE_SIGNAL,         v1::END_CAUSE_HANG,
    v1::END_CAUSE_OUT_OF_MEMORY,  v1::END_CAUSE_NOT_A_NUMBER,
    v1::END_CAUSE_BAD_INPUT,
};

}  // namespace

RetryPolicy PolicyOf(v1::EndCause cause) {
  switch (cause) {
    // Not the job's fault.
    case v1::END_CAUSE_USER:
    case v1::END_CAUSE_PREEMPTED:
    case v1::END_CAUSE_RESIZED:
    case v1::END_CAUSE_WORKER_LOST:
    case v1::END_CAUSE_WORKER_STOPPED:
    case v1::END_CAUSE_COORDINATOR_RESTART:
    case v1::END_CAUSE_CORRUPT_CHECKPOINT:  // as many as there are checkpoints
      return {.counted = false};
    // Memory may be free again later.
    case v1::END_CAUSE_OUT_OF_MEMORY:
      return {.budget = 3, .pause_first = true, .first_pause_ms = 5000};
    // The same steps give the same numbers; once more rules out a bad machine.
    case v1::END_CAUSE_NOT_A_NUMBER:
      return {.budget = 1};
    case v1::END_CAUSE_BAD_INPUT:
      return {.budget = 0};
    case v1::END_CAUSE_SPAWN:
      return {.pause_first = true};
    default:
      return {};
  }
}

int64_t PauseMs(const RetryPolicy& policy, int failures_in_a_row, int64_t longest_ms) {
  const int doublings = failures_in_a_row - (policy.pause_first ? 1 : 2);
  if (doublings < 0) return 0;
  return std::min(policy.first_pause_ms << std::min(doublings, 20), longest_ms);
}

int Strength(v1::EndCause cause) {
  const auto* found = std::find(kByStrength.begin(), kByStrength.end(), cause);
  return found == kByStrength.end() ? -1 : static_cast<int>(found - kByStrength.begin());
}

}  // namespace diffmoe::server
