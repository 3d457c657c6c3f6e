// `job pause|resume|retry|fork|set`, `jobs` with filters, `ckpt pin|unpin|rm|verify`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/exit_code.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

using ::testing::HasSubstr;

v1::Job JobIn(v1::JobState state) {
  v1::Job job;
  job.set_id("a-1");
  job.set_name("jobs/a-1");
  job.set_state(state);
  return job;
}

v1::TrainingSpec CompleteSpec() {
  v1::TrainingSpec spec;
  spec.set_name("a");
  spec.mutable_model()->set_classes(10);
  spec.mutable_model()->set_image_size(16);
  spec.mutable_model()->set_channels(1);
  spec.mutable_model()->set_size(v1::MODEL_SIZE_S);
  spec.mutable_data()->set_format(v1::DATA_FORMAT_IDX);
  spec.mutable_data()->set_path("/data");
  spec.mutable_train()->set_steps(100);
  spec.mutable_train()->set_global_batch(8);
  return spec;
}

TEST(JobChanges, EachVerbCallsItsMethod) {
  FakeServer server;
  server.api.job = JobIn(v1::PAUSING);
  for (const char* verb : {"pause", "resume", "retry"}) {
    const CliResult result = server.Cli({"job", verb, "a-1"});
    EXPECT_EQ(result.exit_code, kExitOk) << result.err;
    EXPECT_EQ(result.out, "a-1 is PAUSING\n");
    EXPECT_EQ(server.api.changed, verb);
    EXPECT_EQ(server.api.asked_name, "jobs/a-1");
  }
}

TEST(JobChanges, ErrorsOfTheCoordinatorAreShown) {
  FakeServer server;
  v1::ErrorDetails details;
  details.set_reason(v1::JOB_ALREADY_ENDED);
  server.api.answer = ApiError(grpc::StatusCode::FAILED_PRECONDITION,
                               "jobs/a-1 has already ended: SUCCEEDED", details);
  const CliResult result = server.Cli({"job", "pause", "a-1"});
  EXPECT_EQ(result.exit_code, kExitConflict);
  EXPECT_THAT(result.err, HasSubstr("already ended"));
}

TEST(JobChanges, ForkSendsTheSpecWithItsChanges) {
  FakeServer server;
  server.api.job = JobIn(v1::QUEUED);
  *server.api.job.mutable_spec() = CompleteSpec();
  const CliResult result =
      server.Cli({"job", "fork", "a-1", "40", "--set", "train.steps=200", "--set",
                  "optimizer.learning_rate=0.5", "--priority", "3", "--label", "why=test"});
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "a-1\n");
  const v1::ForkJobRequest& request = server.api.fork_request;
  EXPECT_EQ(request.checkpoint(), "jobs/a-1/checkpoints/40");
  EXPECT_EQ(request.spec().train().steps(), 200);
  EXPECT_EQ(request.spec().optimizer().learning_rate(), 0.5);
  EXPECT_EQ(request.priority(), 3);
  EXPECT_EQ(request.labels().at("why"), "test");
}

TEST(JobChanges, ForkWithoutChangesLeavesTheSpecToTheCoordinator) {
  FakeServer server;
  server.api.job = JobIn(v1::QUEUED);
  ASSERT_EQ(server.Cli({"job", "fork", "a-1"}).exit_code, kExitOk);
  EXPECT_FALSE(server.api.fork_request.has_spec());
  EXPECT_EQ(server.api.fork_request.checkpoint(), "jobs/a-1/checkpoints/latest");
}

TEST(JobChanges, ForkNamesBadChanges) {
  FakeServer server;
  *server.api.job.mutable_spec() = CompleteSpec();
  const CliResult result = server.Cli({"job", "fork", "a-1", "--set", "train.steps=-1"});
  EXPECT_EQ(result.exit_code, kExitInvalidSpec);
  EXPECT_THAT(result.err, HasSubstr("train.steps"));
}

TEST(JobChanges, SetSendsOnlyWhatWasGiven) {
  FakeServer server;
  server.api.job = JobIn(v1::RUNNING);
  ASSERT_EQ(
      server.Cli({"job", "set", "a-1", "--label", "team=x", "--remove-label", "old"}).exit_code,
      kExitOk);
  EXPECT_FALSE(server.api.update_request.has_priority());
  EXPECT_EQ(server.api.update_request.set_labels().at("team"), "x");
  EXPECT_EQ(server.api.update_request.remove_labels(0), "old");
  ASSERT_EQ(server.Cli({"job", "set", "a-1", "--priority", "-7"}).exit_code, kExitOk);
  EXPECT_EQ(server.api.update_request.priority(), -7);
  const CliResult bad = server.Cli({"job", "set", "a-1", "--label", "nothing"});
  EXPECT_EQ(bad.exit_code, kExitUsage);
  EXPECT_THAT(bad.err, HasSubstr("KEY=VALUE"));
}

TEST(JobChanges, JobsAreFiltered) {
  FakeServer server;
  ASSERT_EQ(server
                .Cli({"jobs", "--state", "running", "--state", "PAUSED", "--label", "team=x",
                      "--label", "gpu", "--match", "fash"})
                .exit_code,
            kExitOk);
  const v1::ListJobsRequest& request = server.api.list_request;
  ASSERT_EQ(request.states_size(), 2);
  EXPECT_EQ(request.states(0), v1::RUNNING);
  EXPECT_EQ(request.states(1), v1::PAUSED);
  EXPECT_EQ(request.labels().at("team"), "x");
  EXPECT_EQ(request.labels().at("gpu"), "");
  EXPECT_EQ(request.name_contains(), "fash");
  const CliResult bad = server.Cli({"jobs", "--state", "idle"});
  EXPECT_EQ(bad.exit_code, kExitUsage);
  EXPECT_THAT(bad.err, HasSubstr("queued, starting, running"));
}

TEST(CheckpointChanges, PinRemoveVerify) {
  FakeServer server;
  server.api.checkpoint.set_name("jobs/a-1/checkpoints/40");
  EXPECT_EQ(server.Cli({"ckpt", "pin", "a-1", "40"}).out, "jobs/a-1/checkpoints/40 is pinned\n");
  EXPECT_TRUE(server.api.pin_request.pinned());
  EXPECT_EQ(server.Cli({"ckpt", "unpin", "a-1", "40"}).exit_code, kExitOk);
  EXPECT_FALSE(server.api.pin_request.pinned());
  EXPECT_EQ(server.Cli({"ckpt", "rm", "a-1", "40"}).out, "jobs/a-1/checkpoints/40 is deleted\n");
  server.api.verified.set_bytes(2048);
  server.api.verified.set_finished(true);
  const CliResult good = server.Cli({"ckpt", "verify", "a-1", "40"});
  EXPECT_EQ(good.exit_code, kExitOk) << good.err;
  EXPECT_THAT(good.out, HasSubstr("is good"));
  server.api.verified.set_damage("chunk 3 of shard 0");
  const CliResult bad = server.Cli({"ckpt", "verify", "a-1", "40"});
  EXPECT_EQ(bad.exit_code, kExitCorrupt);
  EXPECT_THAT(bad.err, HasSubstr("chunk 3 of shard 0"));
}

}  // namespace
}  // namespace diffmoe
