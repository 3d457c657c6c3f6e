#include "client/api_status.h"

#include <map>

#include "core/base/exit_code.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

TEST(ExitCodeForError, IsFrozen) {
  const std::map<absl::StatusCode, int> kExpected = {{absl::StatusCode::kOk, 0},
                                                     {absl::StatusCode::kCancelled, 11},
                                                     {absl::StatusCode::kUnknown, 1},
                                                     {absl::StatusCode::kInvalidArgument, 3},
                                                     {absl::StatusCode::kDeadlineExceeded, 9},
                                                     {absl::StatusCode::kNotFound, 4},
                                                     {absl::StatusCode::kAlreadyExists, 6},
                                                     {absl::StatusCode::kPermissionDenied, 5},
                                                     {absl::StatusCode::kResourceExhausted, 7},
                                                     {absl::StatusCode::kFailedPrecondition, 6},
                                                     {absl::StatusCode::kAborted, 6},
                                                     {absl::StatusCode::kOutOfRange, 3},
                                                     {absl::StatusCode::kUnimplemented, 1},
                                                     {absl::StatusCode::kInternal, 1},
                                                     {absl::StatusCode::kUnavailable, 8},
                                                     {absl::StatusCode::kDataLoss, 20},
                                                     {absl::StatusCode::kUnauthenticated, 5}};
  for (const auto& [code, exit_code] : kExpected) {
    EXPECT_EQ(ExitCodeForError(absl::Status(code, "x")), exit_code) << code;
  }
  EXPECT_EQ(ExitCodeForError(UsageError("x")), 2);
}

TEST(ErrorDetails, TravelThroughTheWireFormatAndTheStatus) {
  v1::ErrorDetails details;
  details.set_reason(v1::QUEUE_FULL);
  details.set_retry_delay_ms(1500);
  v1::StatusDetails all;
  all.add_details()->PackFrom(v1::FieldViolation());  // another kind first
  all.add_details()->PackFrom(details);
  const v1::ErrorDetails parsed = ParseErrorDetails(all.SerializeAsString());
  EXPECT_EQ(parsed.reason(), v1::QUEUE_FULL);
  absl::Status status = absl::ResourceExhaustedError("8 requests wait");
  SetErrorDetails(parsed, &status);
  EXPECT_EQ(GetErrorDetails(status).retry_delay_ms(), 1500);
  EXPECT_EQ(DescribeError(status), "diffmoe: 8 requests wait\nTry again in 2 s.\n");
}

TEST(ErrorDetails, BrokenDetailsAreNoDetails) {
  EXPECT_EQ(ParseErrorDetails("\xff\xff").reason(), v1::ERROR_REASON_UNSPECIFIED);
  EXPECT_EQ(ParseErrorDetails("").reason(), v1::ERROR_REASON_UNSPECIFIED);
  EXPECT_EQ(GetErrorDetails(absl::InternalError("x")).reason(), v1::ERROR_REASON_UNSPECIFIED);
}

TEST(DescribeError, ListsViolationsWithFileAndLine) {
  absl::Status status = absl::InvalidArgumentError("2 faults in a.yaml");
  v1::ErrorDetails details;
  details.set_reason(v1::INVALID_SPEC);
  v1::FieldViolation* first = details.add_violations();
  first->set_field("model.experts");
  first->set_description("expected a multiple of parallel.ranks (2), got 5");
  first->set_line(12);
  details.add_violations()->set_description("forged\nline \x1b[2J");
  SetErrorDetails(details, &status);
  SetErrorFile("a.yaml", &status);
  EXPECT_EQ(DescribeError(status),
            "diffmoe: 2 faults in a.yaml\n"
            "  a.yaml:12: model.experts: expected a multiple of parallel.ranks (2), got 5\n"
            "  forged\\nline \\x1b[2J\n"
            "`diffmoe explain FIELD` says what a field means.\n");
}

TEST(DescribeError, SaysASingleViolationOnce) {
  absl::Status status = absl::InvalidArgumentError("classes[0]: expected 0 to 9, got 10");
  v1::ErrorDetails details;
  details.set_reason(v1::INVALID_REQUEST);
  v1::FieldViolation& violation = *details.add_violations();
  violation.set_field("classes[0]");
  violation.set_description("expected 0 to 9, got 10");
  violation.set_line(4);
  SetErrorDetails(details, &status);
  EXPECT_EQ(DescribeError(status), "diffmoe: classes[0]: expected 0 to 9, got 10\n");
  SetErrorFile("a.yaml", &status);
  EXPECT_EQ(DescribeError(status),
            "diffmoe: 1 fault in a.yaml\n  a.yaml:4: classes[0]: expected 0 to 9, got 10\n");
}

TEST(DescribeError, EveryReasonSaysWhatToDoNext) {
  const auto* reasons = v1::ErrorReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    const auto reason = static_cast<v1::ErrorReason>(reasons->value(i)->number());
    // The violations of a request say it themselves.
    if (reason == v1::ERROR_REASON_UNSPECIFIED || reason == v1::INVALID_REQUEST) continue;
    absl::Status status = absl::UnavailableError("x");
    v1::ErrorDetails details;
    details.set_reason(reason);
    details.set_resource("jobs/a-1/checkpoints/5");
    SetErrorDetails(details, &status);
    const std::string text = DescribeError(status);
    EXPECT_GT(text.size(), std::string("diffmoe: x\n").size()) << v1::ErrorReason_Name(reason);
    EXPECT_EQ(text.find("JOB`"), std::string::npos) << text;
  }
}

TEST(DescribeError, ExplainsRefusedPings) {
  EXPECT_NE(DescribeError(absl::UnavailableError("GOAWAY: too_many_pings")).find("too often"),
            std::string::npos);
}

}  // namespace
}  // namespace diffmoe
