#include "client/retry.h"

#include "client/api_status.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

absl::Status Refusal(int64_t delay_ms) {
  absl::Status status = absl::ResourceExhaustedError("full");
  v1::ErrorDetails details;
  details.set_reason(v1::QUEUE_FULL);
  details.set_retry_delay_ms(delay_ms);
  SetErrorDetails(details, &status);
  return status;
}

TEST(Retry, KnowsWhatMayPass) {
  EXPECT_TRUE(IsTransient(absl::UnavailableError("gone")));
  EXPECT_TRUE(IsTransient(Refusal(1)));
  EXPECT_FALSE(IsTransient(Refusal(0)));
  EXPECT_FALSE(IsTransient(absl::ResourceExhaustedError("message too large")));
  EXPECT_FALSE(IsTransient(absl::DeadlineExceededError("late")));
  EXPECT_FALSE(IsTransient(absl::OkStatus()));
}

TEST(Retry, WaitsLongerEachTimeUpToABound) {
  const absl::Status gone = absl::UnavailableError("gone");
  EXPECT_EQ(BackoffDelay(gone, 1, 0), absl::Milliseconds(500));
  EXPECT_EQ(BackoffDelay(gone, 3, 0), absl::Seconds(2));
  EXPECT_EQ(BackoffDelay(gone, 1000, 0), absl::Seconds(30));
  EXPECT_LE(BackoffDelay(gone, 1000, 0.999), absl::Seconds(37.5));
}

TEST(Retry, ComesNoSoonerThanTheRefusalAsks) {
  EXPECT_EQ(BackoffDelay(Refusal(9000), 1, 0), absl::Seconds(9));
  EXPECT_EQ(BackoffDelay(Refusal(9000), 1, 0.5), absl::Seconds(9) * 1.125);
}

}  // namespace
}  // namespace diffmoe
