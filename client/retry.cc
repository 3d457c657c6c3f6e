#include "client/retry.h"

#include <algorithm>

#include "client/api_status.h"

namespace diffmoe {
namespace {

constexpr absl::Duration kFirstDelay = absl::Milliseconds(500);
constexpr absl::Duration kMostDelay = absl::Seconds(30);

}  // namespace

absl::Duration RefusalDelay(const absl::Status& status) {
  if (status.code() != absl::StatusCode::kResourceExhausted) return absl::ZeroDuration();
  return absl::Milliseconds(std::max<int64_t>(0, GetErrorDetails(status).retry_delay_ms()));
}

bool IsTransient(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         RefusalDelay(status) > absl::ZeroDuration();
}

absl::Duration WithJitter(absl::Duration delay, double jitter) {
  return delay * (1 + 0.25 * jitter);
}

absl::Duration BackoffDelay(const absl::Status& status, int attempt, double jitter) {
  absl::Duration delay = kFirstDelay;
  for (int i = 1; i < attempt && delay < kMostDelay; ++i) delay *= 2;
  delay = std::min(delay, kMostDelay);
  return WithJitter(std::max(delay, RefusalDelay(status)), jitter);
}

}  // namespace diffmoe
