#include "worker/error_boundary.h"

#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "core/moe/moe_layer.h"
#include "core/parallel/collectives.h"

namespace diffmoe {
namespace {

using ::testing::HasSubstr;

template <typename Error>
absl::Status Thrown(const Error& error) {
  return CatchErrors([&]() -> absl::Status { throw error; });
}

TEST(CatchErrors, EachCauseHasItsCode) {
  EXPECT_EQ(Thrown(CollectiveError("rank 1 has left")), absl::UnavailableError("rank 1 has left"));
  EXPECT_EQ(Thrown(NonFiniteScoreError("loss is not a number")),
            absl::OutOfRangeError("loss is not a number"));
  EXPECT_TRUE(absl::IsResourceExhausted(Thrown(std::bad_alloc())));
  const std::error_code again = std::make_error_code(std::errc::resource_unavailable_try_again);
  EXPECT_TRUE(absl::IsResourceExhausted(Thrown(std::system_error(again, "thread"))));
  EXPECT_TRUE(absl::IsInternal(
      Thrown(std::system_error(std::make_error_code(std::errc::io_error), "disk"))));
  EXPECT_EQ(Thrown(std::runtime_error("first\nsecond")), absl::InternalError("first"));
}

// More than any machine has: libtorch refuses it with an error of no type of its own.
TEST(CatchErrors, AnAllocationThatFailsIsALackOfMemory) {
  const absl::Status status = CatchErrors([]() -> absl::Status {
    at::empty({int64_t{1} << 50}, at::TensorOptions().dtype(at::kFloat));
    return absl::OkStatus();
  });
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("lower train.global_batch"));
}

}  // namespace
}  // namespace diffmoe
