#include "absl/strings/match.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

constexpr char kSpec[] =
    "name: tiny\n"
    "model:\n"
    "  image_size: 16\n"
    "  patch_size: 4\n"
    "  width: 64\n"
    "  depth: 2\n"
    "  heads: 2\n"
    "  classes: 10\n"
    "  experts: 4\n"
    "data:\n"
    "  format: idx\n"
    "  path: /data\n"
    "train:\n"
    "  steps: 40\n"
    "  global_batch: 16\n";

class SubmitTest : public testing::Test {
 protected:
  SubmitTest() {
    test::WriteFile(file_, kSpec);
    server_.api.job.set_id("tiny-1");
    server_.api.job.set_name("jobs/tiny-1");
  }

  test::TempDir dir_;
  std::string file_ = dir_.Sub("tiny.yaml");
  FakeServer server_;
};

TEST_F(SubmitTest, PrintsTheIdAloneOnStandardOutput) {
  const CliResult result = server_.Cli({"submit", file_, "--set", "train.steps=7"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "tiny-1\n");
  EXPECT_EQ(result.err, "Follow it: diffmoe --server " + server_.address + " watch tiny-1\n");
  EXPECT_EQ(server_.api.submitted.spec().train().steps(), 7);
  EXPECT_EQ(server_.api.submitted.spec().model().width(), 64);
  EXPECT_EQ(server_.api.submitted.request_id().size(), 32u);
  EXPECT_FALSE(server_.api.submitted.validate_only());
}

TEST_F(SubmitTest, DrawsAnotherRequestIdEachTimeUnlessGiven) {
  server_.Cli({"submit", file_});
  const std::string first = server_.api.submitted.request_id();
  server_.Cli({"submit", file_});
  EXPECT_NE(server_.api.submitted.request_id(), first);
  server_.Cli({"submit", file_, "--request-id", "mine"});
  EXPECT_EQ(server_.api.submitted.request_id(), "mine");
}

TEST_F(SubmitTest, ValidateOnlyAsksTheCoordinatorToo) {
  const CliResult result = server_.Cli({"submit", file_, "--validate-only"});
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_EQ(result.out, file_ + " is valid\n");
  EXPECT_TRUE(server_.api.submitted.validate_only());
}

TEST_F(SubmitTest, LocalFaultsAreAllReportedBeforeAnythingIsSent) {
  test::WriteFile(file_, "name: tiny\nmodel:\n  widht: 64\n  depth: no\ntrain:\n  steps: 0\n");
  const CliResult result = server_.Cli({"submit", file_});
  EXPECT_EQ(result.exit_code, kExitInvalidSpec);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(server_.api.submitted.ByteSizeLong(), 0u);
  for (const char* line :
       {":3: model.widht: unknown key; did you mean \"width\"?",
        ":4: model.depth: expected a whole number, got \"no\"",
        ":6: train.steps: expected at least 1, got 0",
        ":1: data: is required: expected a mapping, got nothing",
        ":5: train.global_batch: is required: expected a whole number, got nothing"}) {
    EXPECT_TRUE(absl::StrContains(result.err, "  " + file_ + line + "\n")) << line << result.err;
  }
}

TEST_F(SubmitTest, FaultsFoundByTheCoordinatorGetLines) {
  v1::ErrorDetails details;
  details.set_reason(v1::INVALID_SPEC);
  v1::FieldViolation* violation = details.add_violations();
  violation->set_field("data.path");
  violation->set_description("no such directory");
  server_.api.answer = ApiError(grpc::StatusCode::INVALID_ARGUMENT, "1 fault in the spec", details);
  const CliResult result = server_.Cli({"submit", file_});
  EXPECT_EQ(result.exit_code, kExitInvalidSpec);
  EXPECT_EQ(result.err, "diffmoe: 1 fault in the spec\n  " + file_ +
                            ":12: data.path: no such directory\n"
                            "`diffmoe explain FIELD` says what a field means.\n");
}

TEST_F(SubmitTest, FilesThatCannotBeRead) {
  EXPECT_EQ(server_.Cli({"submit", dir_.Sub("none.yaml")}).exit_code, kExitNotFound);
  const CliResult device = server_.Cli({"submit", "/dev/zero"});
  EXPECT_EQ(device.exit_code, kExitInvalidSpec);
  EXPECT_EQ(device.err, "diffmoe: /dev/zero: expected a regular file, got a device\n");
}

TEST_F(SubmitTest, FollowShowsTheJobToItsEnd) {
  server_.api.watch = [](FakeApi::Context*, grpc::ServerWriter<v1::WatchJobResponse>* writer) {
    v1::Job job;
    job.set_id("tiny-1");
    job.set_state(v1::FAILED);
    job.set_reason("rank 0: data directory /data is missing");
    writer->Write(UpdateOf(job));
    return grpc::Status::OK;
  };
  const CliResult result = server_.Cli({"submit", file_, "--follow"});
  EXPECT_EQ(result.exit_code, kExitJobFailed);
  EXPECT_TRUE(absl::StartsWith(result.out,
                               "tiny-1\ntiny-1 failed: rank 0: data directory /data is missing\n"))
      << result.out;
}

}  // namespace
}  // namespace diffmoe
