#include "server/api/resource_names.h"

#include <gtest/gtest.h>

#include "server/api/grpc_status.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

TEST(ResourceNamesTest, Jobs) {
  EXPECT_EQ(ParseJobName("jobs/a-1").value(), "a-1");
  for (const char* bad : {"", "a-1", "jobs/", "jobs/a/b", "job/a", "jobs", "/jobs/a"}) {
    const auto parsed = ParseJobName(bad);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_EQ(DetailsOf(parsed.status()).violations(0).field(), "name");
  }
}

TEST(ResourceNamesTest, Checkpoints) {
  EXPECT_EQ(ParseCheckpointName("jobs/a-1/checkpoints/50", "name", false)->step, 50);
  EXPECT_FALSE(ParseCheckpointName("jobs/a-1/checkpoints/latest", "name", false)->step.has_value());
  EXPECT_FALSE(ParseCheckpointName("jobs/a-1", "name", true)->step.has_value());
  EXPECT_FALSE(ParseCheckpointName("jobs/a-1", "name", false).ok());
  for (const char* bad : {"", "jobs/a-1/checkpoints/", "jobs/a-1/checkpoints/-1",
                          "jobs/a-1/checkpoints/1x", "jobs/a-1/steps/5", "jobs/a-1/checkpoints/5/6",
                          "jobs/a-1/checkpoints/99999999999999999999"}) {
    EXPECT_FALSE(ParseCheckpointName(bad, "checkpoint", true).ok()) << bad;
  }
}

TEST(ResourceNamesTest, ControlCharactersAreEscaped) {
  const auto parsed = ParseJobName("jobs\n\x1b[31m");
  EXPECT_EQ(parsed.status().message().find('\n'), std::string::npos);
  EXPECT_EQ(parsed.status().message().find('\x1b'), std::string::npos);
}

TEST(PageTokenTest, OnlyOwnTokensPass) {
  EXPECT_EQ(ParsePageToken(MakePageToken(12)).value(), 12);
  for (const std::string bad : {"", "12", "p1-12-00000000", "p2-12-1", "x-y-z"}) {
    EXPECT_EQ(ParsePageToken(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(PageSizeTest, DefaultsAndBounds) {
  EXPECT_EQ(PageSize(0, 50, 1000, "page_size").value(), 50);
  EXPECT_EQ(PageSize(7, 50, 1000, "page_size").value(), 7);
  EXPECT_EQ(PageSize(5000, 50, 1000, "page_size").value(), 1000);
  EXPECT_FALSE(PageSize(-1, 50, 1000, "page_size").ok());
}

TEST(GrpcStatusTest, CarriesTheDetails) {
  const grpc::Status status = ToGrpc(
      MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND, "jobs/a doesn't exist", "jobs/a"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  v1::StatusDetails details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), 5);
  EXPECT_EQ(details.message(), "jobs/a doesn't exist");
  v1::ErrorDetails error;
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&error));
  EXPECT_EQ(error.reason(), v1::JOB_NOT_FOUND);
  EXPECT_EQ(error.resource(), "jobs/a");
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
}

}  // namespace
}  // namespace diffmoe::server
