#include "client/follow.h"

#include <atomic>
#include <csignal>

#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "tests/support/cluster.h"
#include "tests/support/process.h"
#include "tests/support/wait.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

v1::Job JobIn(v1::JobState state, const std::string& reason = "") {
  v1::Job job;
  job.set_id("a-1");
  job.set_state(state);
  job.set_reason(reason);
  return job;
}

TEST(FollowJob, EndsWithTheJob) {
  FakeServer server;
  server.api.watch = [](FakeApi::Context*, grpc::ServerWriter<v1::WatchJobResponse>* writer) {
    writer->Write(UpdateOf(JobIn(v1::QUEUED, "needs 2 slots")));
    writer->Write(UpdateOf(JobIn(v1::QUEUED, "needs 2 slots")));
    writer->Write(UpdateOf(JobIn(v1::RUNNING)));
    v1::Job done = JobIn(v1::SUCCEEDED);
    done.mutable_progress()->set_step(40);
    done.mutable_progress()->set_loss(0.25);
    done.mutable_progress()->set_images_per_second(117.25);
    writer->Write(UpdateOf(done));
    return grpc::Status::OK;
  };
  const CliResult result = server.Cli({"watch", "a-1"});
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_EQ(server.api.asked_name, "jobs/a-1");
  EXPECT_EQ(result.err, "a-1  QUEUED  needs 2 slots\na-1  RUNNING\na-1  SUCCEEDED\n");
  EXPECT_EQ(result.out,
            "a-1 succeeded: 40 steps, loss 0.25, 117.2 images/s\nImages: diffmoe --server " +
                server.address + " sample --job a-1 --class all --n 2 --out samples.png\n");
}

TEST(FollowJob, CancelledJobsHaveTheirOwnExitCode) {
  FakeServer server;
  server.api.watch = [](FakeApi::Context*, grpc::ServerWriter<v1::WatchJobResponse>* writer) {
    writer->Write(UpdateOf(JobIn(v1::CANCELLED)));
    return grpc::Status::OK;
  };
  const CliResult result = server.Cli({"watch", "a-1"});
  EXPECT_EQ(result.exit_code, kExitCancelled);
  EXPECT_EQ(result.out, "a-1 was cancelled\n");
}

TEST(FollowJob, UnknownJobEndsAtOnce) {
  FakeServer server;
  server.api.watch = [](FakeApi::Context*, grpc::ServerWriter<v1::WatchJobResponse>*) {
    v1::ErrorDetails details;
    details.set_reason(v1::JOB_NOT_FOUND);
    return ApiError(grpc::StatusCode::NOT_FOUND, "no job \"a-1\"", details);
  };
  EXPECT_EQ(server.Cli({"watch", "a-1"}).exit_code, kExitNotFound);
}

TEST(FollowJob, FindsTheCoordinatorAgainAfterALossAndResumes) {
  FakeServer server;
  std::atomic<int> calls = 0;
  server.api.watch = [&](FakeApi::Context*,
                         grpc::ServerWriter<v1::WatchJobResponse>* writer) -> grpc::Status {
    if (calls++ == 0) {
      v1::WatchJobResponse update = UpdateOf(JobIn(v1::RUNNING));
      update.set_resume_token("a-1/7");
      writer->Write(update);
      return {grpc::StatusCode::UNAVAILABLE, "going away"};
    }
    EXPECT_EQ(server.api.resume_token, "a-1/7");
    v1::WatchJobResponse update = UpdateOf(JobIn(v1::SUCCEEDED));
    update.add_events()->set_message("checkpoint of step 10 committed");
    writer->Write(update);
    return grpc::Status::OK;
  };
  const CliResult result = server.Cli({"watch", "a-1"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.err,
            "a-1  RUNNING\n"
            "the coordinator is away; the job goes on without it. Trying again for 60 s\n"
            "connected again\n"
            "a-1  SUCCEEDED\n"
            "a-1  checkpoint of step 10 committed\n");
}

// The real program, so that the signal meets the threads of a real process.
TEST(FollowJob, InterruptDetachesAndSaysHowToCancel) {
  FakeServer server;
  std::atomic<bool> cancelled = false;
  server.api.watch = [&](FakeApi::Context* context,
                         grpc::ServerWriter<v1::WatchJobResponse>* writer) {
    writer->Write(UpdateOf(JobIn(v1::RUNNING)));
    cancelled = test::WaitUntil(absl::Seconds(20), [&] { return context->IsCancelled(); });
    return grpc::Status::CANCELLED;
  };
  auto process = test::Process::Start(
      {.argv = {test::Program("diffmoe"), "--server", server.address, "watch", "a-1"},
       .environment = {},
       .working_dir = ""});
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForText("a-1  RUNNING", absl::Seconds(20))) << (*process)->Err();
  (*process)->Signal(SIGINT);
  const auto exit = (*process)->Wait(absl::Seconds(20));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->exit_code, kExitInterrupted);
  EXPECT_EQ((*process)->Err(),
            "a-1  RUNNING\nDetached; a-1 goes on. Follow again: diffmoe --server " +
                server.address + " watch a-1; stop it: diffmoe --server " + server.address +
                " job cancel a-1\n");
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return cancelled.load(); }));
}

}  // namespace
}  // namespace diffmoe
