// The life of a job over real gRPC: client, coordinator, and a worker played by the test.
#include <csignal>

#include "tests/support/wait.h"
#include "tests/unit/server/api/coordinator_fixture.h"
#include "tests/unit/server/api/fake_worker.h"

namespace diffmoe::server {
namespace {

using JobLifeTest = CoordinatorFixture;

worker::v1::RunningRank StillRunning(const worker::v1::StartRank& start) {
  worker::v1::RunningRank running;
  *running.mutable_group() = start.group();
  running.set_rank(start.rank());
  running.set_slot(start.slot());
  running.set_role(start.role());
  return running;
}

TEST_F(JobLifeTest, FromSubmitThroughARestartToSuccess) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  ASSERT_TRUE(worker.WaitForWelcome());
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(2), "", &job).ok());
  const std::string id = job.id();
  const auto first = worker.WaitForStart(1, 0);
  const auto second = worker.WaitForStart(1, 1);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->spec().optimizer().learning_rate(), 1e-4) << "defaults are filled";
  worker.SendStarted(*first);
  worker.SendStarted(*second);
  worker.SendReport(id, 1, 20);
  WaitForState(id, v1::RUNNING);
  ASSERT_TRUE(worker.PutCheckpoint(id, 1, 20, 2).ok());

  // Rank 1 is killed; rank 0 is stopped; both start again from step 20.
  worker.SendExited(second->group(), 1, worker::v1::EXIT_CAUSE_SIGNAL, 25, SIGKILL);
  const auto stop = worker.WaitForStop();
  ASSERT_TRUE(stop);
  EXPECT_EQ(stop->group().epoch(), 1);
  worker.SendExited(first->group(), 0, worker::v1::EXIT_CAUSE_STOPPED);
  const auto again = worker.WaitForStart(2, 0);
  ASSERT_TRUE(again);
  ASSERT_TRUE(worker.WaitForStart(2, 1));
  EXPECT_EQ(again->restore_step(), 20);

  // The old epoch can do no harm.
  const grpc::Status stale = worker.PutCheckpoint(id, 1, 30, 1);
  EXPECT_EQ(stale.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(DetailsOf(stale).reason(), v1::STALE_EPOCH);

  worker.SendReport(id, 2, 60);
  WaitForState(id, v1::RUNNING);
  ASSERT_TRUE(worker.PutCheckpoint(id, 2, 100, 2).ok());
  worker.SendExited(again->group(), 0, worker::v1::EXIT_CAUSE_DONE, 100);
  worker.SendExited(again->group(), 1, worker::v1::EXIT_CAUSE_DONE, 100);
  job = WaitForState(id, v1::SUCCEEDED);
  EXPECT_EQ(job.restarts(), 1);
  EXPECT_EQ(job.latest_checkpoint_step(), 100);
  ASSERT_EQ(job.attempts_size(), 2);
  EXPECT_EQ(job.attempts(0).end_reason(), "rank 1 on worker w1 was killed by signal 9");
}

TEST_F(JobLifeTest, CoordinatorRestartsInTheMiddle) {
  Start();
  v1::Job job;
  std::optional<worker::v1::StartRank> start;
  {
    FakeWorker worker(coordinator_->grpc_address(), {});
    ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
    start = worker.WaitForStart(1, 0);
    ASSERT_TRUE(start);
    worker.SendStarted(*start);
    worker.SendReport(job.id(), 1, 20);
    WaitForState(job.id(), v1::RUNNING);
    ASSERT_TRUE(worker.PutCheckpoint(job.id(), 1, 20, 1).ok());
    Stop();
  }
  Start();
  EXPECT_EQ(Get(job.id()).state(), v1::RUNNING);
  FakeWorker worker(coordinator_->grpc_address(), {.running = {StillRunning(*start)}});
  ASSERT_TRUE(worker.WaitForWelcome());
  worker.SendReport(job.id(), 1, 90);
  job = WaitFor(job.id(), [](const v1::Job& j) { return j.progress().step() == 90; });
  EXPECT_EQ(job.epoch(), 1) << "adopted, not restarted";
  ASSERT_TRUE(worker.PutCheckpoint(job.id(), 1, 100, 1).ok());
  worker.SendExited(start->group(), 0, worker::v1::EXIT_CAUSE_DONE, 100);
  job = WaitForState(job.id(), v1::SUCCEEDED);
  EXPECT_EQ(job.restarts(), 0);
  // All that was durable is there.
  grpc::ClientContext context;
  v1::ListCheckpointsRequest request;
  request.set_parent("jobs/" + job.id());
  v1::ListCheckpointsResponse response;
  ASSERT_TRUE(checkpoints_->ListCheckpoints(&context, request, &response).ok());
  ASSERT_EQ(response.checkpoints_size(), 2);
  EXPECT_EQ(response.checkpoints(0).step(), 100);
  EXPECT_EQ(response.checkpoints(1).step(), 20);
}

TEST_F(JobLifeTest, CoordinatorAndWorkerRestartTogether) {
  Start();
  v1::Job job;
  {
    FakeWorker worker(coordinator_->grpc_address(), {});
    ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
    ASSERT_TRUE(worker.WaitForStart(1, 0));
    worker.SendReport(job.id(), 1, 20);
    WaitForState(job.id(), v1::RUNNING);
    ASSERT_TRUE(worker.PutCheckpoint(job.id(), 1, 20, 1).ok());
    Stop();
  }
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  const auto start = worker.WaitForStart(2, 0);
  ASSERT_TRUE(start);
  EXPECT_EQ(start->restore_step(), 20);
  worker::v1::GetManifestRequest request;
  request.set_job_id(job.id());
  request.set_step(20);
  worker::v1::Manifest manifest;
  grpc::ClientContext context;
  EXPECT_TRUE(worker.bulk()->GetManifest(&context, request, &manifest).ok());
  EXPECT_EQ(manifest.slices_size(), 2);
}

TEST_F(JobLifeTest, WatcherSeesTheEnd) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_name(job.name());
  auto reader = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse seen;
  ASSERT_TRUE(reader->Read(&seen)) << "the state now comes first";
  EXPECT_EQ(seen.job().id(), job.id());
  ASSERT_TRUE(worker.WaitForStart(1, 0));
  grpc::ClientContext cancel_context;
  v1::CancelJobRequest cancel;
  cancel.set_name(job.name());
  ASSERT_TRUE(jobs_->CancelJob(&cancel_context, cancel, &job).ok());
  EXPECT_EQ(job.state(), v1::CANCELLING);
  const auto stop = worker.WaitForStop();
  ASSERT_TRUE(stop);
  worker.SendExited(stop->group(), 0, worker::v1::EXIT_CAUSE_STOPPED);
  while (reader->Read(&seen)) {
  }
  EXPECT_EQ(seen.job().state(), v1::CANCELLED);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(JobLifeTest, ResumedWatcherMissesNoEvent) {
  Start();
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  v1::WatchJobRequest request;
  request.set_name(job.name());
  v1::WatchJobResponse seen;
  {
    grpc::ClientContext context;
    auto reader = jobs_->WatchJob(&context, request);
    ASSERT_TRUE(reader->Read(&seen));
    EXPECT_EQ(seen.events_size(), 0) << "events from now on";
    request.set_resume_token(seen.resume_token());
    context.TryCancel();
  }
  const auto change = [&](auto method, auto change_request) {
    grpc::ClientContext context;
    change_request.set_name(job.name());
    ASSERT_TRUE((jobs_.get()->*method)(&context, change_request, &job).ok());
  };
  using Stub = v1::TrainingJobService::Stub;
  change(&Stub::PauseJob, v1::PauseJobRequest());
  EXPECT_EQ(job.state(), v1::PAUSED);
  change(&Stub::ResumeJob, v1::ResumeJobRequest());
  grpc::ClientContext context;
  auto reader = jobs_->WatchJob(&context, request);
  ASSERT_TRUE(reader->Read(&seen));
  ASSERT_EQ(seen.events_size(), 2);
  EXPECT_EQ(seen.events(0).message(), "paused while it waited");
  EXPECT_EQ(seen.events(1).sequence(), seen.events(0).sequence() + 1);
  change(&Stub::CancelJob, v1::CancelJobRequest());
  ASSERT_TRUE(reader->Read(&seen));
  ASSERT_EQ(seen.events_size(), 1);
  EXPECT_EQ(seen.events(0).state(), v1::CANCELLED);
  EXPECT_FALSE(reader->Read(&seen));
  EXPECT_TRUE(reader->Finish().ok());
  grpc::ClientContext bad_context;
  request.set_resume_token("other-9/3");
  auto bad = jobs_->WatchJob(&bad_context, request);
  EXPECT_FALSE(bad->Read(&seen));
  EXPECT_EQ(bad->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobLifeTest, ForkAndRetryAreAnsweredOnce) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  ASSERT_TRUE(worker.WaitForStart(1, 0));
  ASSERT_TRUE(worker.PutCheckpoint(job.id(), 1, 20, 1).ok());
  v1::ForkJobRequest fork;
  fork.set_checkpoint(job.name() + "/checkpoints/20");
  fork.set_request_id("fork-once");
  (*fork.mutable_labels())["from"] = "test";
  v1::Job first, second;
  grpc::ClientContext c1, c2, c3, c4;
  ASSERT_TRUE(jobs_->ForkJob(&c1, fork, &first).ok());
  ASSERT_TRUE(jobs_->ForkJob(&c2, fork, &second).ok());
  EXPECT_EQ(first.id(), second.id());
  EXPECT_EQ(first.forked_from(), job.name() + "/checkpoints/20");
  fork.set_priority(4);
  EXPECT_EQ(DetailsOf(jobs_->ForkJob(&c3, fork, &second)).reason(), v1::REQUEST_ID_REUSED);
  v1::ListJobsRequest list;
  (*list.mutable_labels())["from"] = "";
  v1::ListJobsResponse found;
  ASSERT_TRUE(jobs_->ListJobs(&c4, list, &found).ok());
  ASSERT_EQ(found.jobs_size(), 1);
  EXPECT_EQ(found.jobs(0).id(), first.id());
  v1::UpdateJobRequest update;
  update.set_name(job.name());
  update.set_priority(1001);
  (*update.mutable_set_labels())["Not a key"] = "x";
  grpc::ClientContext c5;
  const v1::ErrorDetails details = DetailsOf(jobs_->UpdateJob(&c5, update, &second));
  ASSERT_EQ(details.violations_size(), 2);
  EXPECT_EQ(details.violations(0).field(), "priority");
  EXPECT_EQ(details.violations(1).field(), "labels");
}

TEST_F(JobLifeTest, CheckpointsArePinnedVerifiedAndDeleted) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(2), "", &job).ok());
  ASSERT_TRUE(worker.WaitForStart(1, 1));
  for (const int64_t step : {20, 30}) {
    ASSERT_TRUE(worker.PutCheckpoint(job.id(), 1, step, 2).ok());
  }
  const std::string name = job.name() + "/checkpoints/20";
  v1::UpdateCheckpointRequest pin;
  pin.set_name(name);
  pin.set_pinned(true);
  v1::Checkpoint checkpoint;
  grpc::ClientContext c1, c2, c3, c4, c5, c6;
  ASSERT_TRUE(checkpoints_->UpdateCheckpoint(&c1, pin, &checkpoint).ok());
  EXPECT_TRUE(checkpoint.pinned());
  v1::DeleteCheckpointRequest erase;
  erase.set_name(name);
  v1::DeleteCheckpointResponse erased;
  EXPECT_EQ(DetailsOf(checkpoints_->DeleteCheckpoint(&c2, erase, &erased)).reason(),
            v1::CHECKPOINT_IN_USE);
  v1::VerifyCheckpointRequest verify;
  verify.set_name(name);
  auto reader = checkpoints_->VerifyCheckpoint(&c3, verify);
  v1::VerifyCheckpointResponse progress;
  while (reader->Read(&progress)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(progress.finished());
  EXPECT_EQ(progress.damage(), "");
  EXPECT_EQ(progress.bytes(), progress.total_bytes());
  EXPECT_GT(progress.bytes(), 1'000'000);
  pin.set_pinned(false);
  ASSERT_TRUE(checkpoints_->UpdateCheckpoint(&c4, pin, &checkpoint).ok());
  ASSERT_TRUE(checkpoints_->DeleteCheckpoint(&c5, erase, &erased).ok());
  v1::ListCheckpointsRequest list;
  list.set_parent(job.name());
  v1::ListCheckpointsResponse left;
  ASSERT_TRUE(checkpoints_->ListCheckpoints(&c6, list, &left).ok());
  ASSERT_EQ(left.checkpoints_size(), 1);
  EXPECT_EQ(left.checkpoints(0).step(), 30);
  EXPECT_EQ(left.checkpoints(0).used_by(0), "restart");
}

TEST_F(JobLifeTest, WatcherOfAStoppingCoordinatorIsTold) {
  Start();
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_name(job.name());
  auto reader = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse seen;
  ASSERT_TRUE(reader->Read(&seen));
  Stop();
  while (reader->Read(&seen)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(JobLifeTest, WorkersOfAnotherVersionAreRefused) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {.protocol_version = 99});
  const grpc::Status status = worker.WaitForEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).reason(), v1::PROTOCOL_MISMATCH);
}

TEST_F(JobLifeTest, BadHellosAreRefused) {
  Start();
  FakeWorker no_id(coordinator_->grpc_address(), {.id = ""});
  EXPECT_EQ(no_id.WaitForEnd().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  FakeWorker no_slots(coordinator_->grpc_address(), {.slots = 0});
  EXPECT_EQ(no_slots.WaitForEnd().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(JobLifeTest, NewerSessionOfAWorkerEndsTheOlder) {
  Start();
  FakeWorker older(coordinator_->grpc_address(), {});
  ASSERT_TRUE(older.WaitForWelcome());
  FakeWorker newer(coordinator_->grpc_address(), {});
  ASSERT_TRUE(newer.WaitForWelcome());
  EXPECT_EQ(older.WaitForEnd().error_code(), grpc::StatusCode::ABORTED);
  grpc::ClientContext context;
  v1::ListWorkersResponse response;
  ASSERT_TRUE(cluster_->ListWorkers(&context, {}, &response).ok());
  ASSERT_EQ(response.workers_size(), 1);
  EXPECT_EQ(response.workers(0).state(), v1::CONNECTED);
}

TEST_F(JobLifeTest, WorkerThatDiesLosesItsJobToAnother) {
  Start();
  v1::Job job;
  auto dying = std::make_unique<FakeWorker>(coordinator_->grpc_address(),
                                            FakeWorker::Options{.id = "w1", .slots = 1});
  ASSERT_TRUE(dying->WaitForWelcome());
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  ASSERT_TRUE(dying->WaitForStart(1, 0));
  FakeWorker other(coordinator_->grpc_address(), {.id = "w2"});
  ASSERT_TRUE(other.WaitForWelcome());
  dying.reset();
  const auto start = other.WaitForStart(2, 0);
  ASSERT_TRUE(start);
  EXPECT_EQ(start->group().id(), job.id());
}

}  // namespace
}  // namespace diffmoe::server
