#include <gtest/gtest.h>

#include <csignal>

#include "server/errors.h"
#include "server/state/records.h"
#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {
namespace {

TEST(AttemptTest, FirstReportMakesTheJobRun) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 2);
  const std::string id = cluster.Submit(TestSpec("a", 2));
  cluster.Started(session, id, 1, 0);
  cluster.Started(session, id, 1, 1);
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
  cluster.Report(session, id, 1, 3);
  EXPECT_EQ(cluster.job(id).state(), v1::RUNNING);
  EXPECT_EQ(cluster.job(id).progress().step(), 3);
  EXPECT_EQ(cluster.job(id).progress().total_steps(), 100);
  EXPECT_TRUE(cluster.records.contains(StepsKey(id, 3, 1)));
  EXPECT_TRUE(cluster.records.contains(ThresholdsKey(id, 3)));
}

TEST(AttemptTest, AllRanksDoneWithTheFinalCheckpointSucceeds) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 100).ok());
  cluster.Done(running.session, running.id, 1, 0, 100);
  EXPECT_EQ(cluster.job(running.id).state(), v1::RUNNING);
  cluster.Done(running.session, running.id, 1, 1, 100);
  EXPECT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
  EXPECT_EQ(cluster.job(running.id).attempts(0).end_reason(), "finished at step 100");
  EXPECT_EQ(cluster.job(running.id).latest_checkpoint_step(), 100);
}

TEST(AttemptTest, RunEndedByTheTimeLimitSucceedsBelowTheLastStep) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 57).ok());
  cluster.Done(running.session, running.id, 1, 0, 57);
  EXPECT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
}

TEST(AttemptTest, DoneWithoutTheFinalCheckpointIsAFailure) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Done(running.session, running.id, 1, 0, 100);
  EXPECT_EQ(cluster.job(running.id).restarts(), 1);
  EXPECT_EQ(cluster.job(running.id).state(), v1::STARTING);
}

TEST(AttemptTest, KilledRankRestartsTheJobAtOnceFromItsCheckpoint) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  cluster.Killed(running.session, running.id, 1, 1, SIGKILL);
  ASSERT_EQ(cluster.stops(running.session).size(), 1u) << "the other rank is stopped";
  EXPECT_TRUE(cluster.starts(running.session).empty()) << "not before it has ended";
  cluster.Errored(running.session, running.id, 1, 0, absl::StatusCode::kUnavailable,
                  "peer is gone");
  const v1::Job& job = cluster.job(running.id);
  EXPECT_EQ(job.state(), v1::STARTING);
  EXPECT_EQ(job.epoch(), 2);
  EXPECT_EQ(job.restarts(), 1);
  EXPECT_EQ(job.attempts(0).end_reason(), "rank 1 on worker w1 was killed by signal 9");
  const auto starts = cluster.starts(running.session);
  ASSERT_EQ(starts.size(), 2u);
  EXPECT_EQ(starts[0].group().epoch(), 2);
  EXPECT_EQ(starts[0].restore_step(), 10);
  EXPECT_EQ(starts[0].restore_job(), running.id);
  ASSERT_EQ(cluster.all<RestartCounted>().size(), 1u);
  EXPECT_EQ(cluster.all<RestartCounted>()[0].cause, v1::END_CAUSE_SIGNAL);
}

TEST(AttemptTest, CulpritIsNamedWhoeverSpeaksFirst) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  cluster.Errored(running.session, running.id, 1, 0, absl::StatusCode::kUnavailable,
                  "peer is gone");
  cluster.Killed(running.session, running.id, 1, 1, SIGKILL);
  EXPECT_EQ(cluster.job(running.id).attempts(0).end_reason(),
            "rank 1 on worker w1 was killed by signal 9");
}

TEST(AttemptTest, SlotsOfAnEndingAttemptAreKeptForItsNextOne) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  const std::string younger = cluster.Submit(TestSpec("b", 1));
  cluster.Killed(running.session, running.id, 1, 1, SIGKILL);
  EXPECT_EQ(cluster.job(younger).state(), v1::QUEUED);
  cluster.Stopped(running.session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).epoch(), 2);
  EXPECT_EQ(cluster.job(younger).state(), v1::QUEUED);
}

TEST(AttemptTest, RefusalOfARankEndsTheJobWithItsMessage) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound,
        absl::StatusCode::kPermissionDenied, absl::StatusCode::kFailedPrecondition}) {
    ClusterHarness cluster;
    const RunningJob running = StartRunningJob(cluster, 2, 2);
    cluster.Errored(running.session, running.id, 1, 0, code, "no folder /data/x");
    cluster.Killed(running.session, running.id, 1, 1, SIGABRT);
    EXPECT_EQ(cluster.job(running.id).state(), v1::FAILED);
    EXPECT_NE(cluster.job(running.id).reason().find("no folder /data/x"), std::string::npos)
        << cluster.job(running.id).reason();
    EXPECT_EQ(cluster.job(running.id).restarts(), 0);
  }
}

TEST(AttemptTest, SameErrorTwiceAtTheSameStepEndsTheJob) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Errored(running.session, running.id, 1, 0, absl::StatusCode::kInternal, "loss is NaN",
                  20);
  EXPECT_EQ(cluster.job(running.id).state(), v1::STARTING);
  cluster.Errored(running.session, running.id, 2, 0, absl::StatusCode::kInternal, "loss is NaN",
                  20);
  EXPECT_EQ(cluster.job(running.id).state(), v1::FAILED);
  EXPECT_NE(cluster.job(running.id).reason().find("twice at step 20"), std::string::npos);
}

TEST(AttemptTest, SameErrorAtAnotherStepIsRetried) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Errored(running.session, running.id, 1, 0, absl::StatusCode::kInternal, "x", 20);
  cluster.Errored(running.session, running.id, 2, 0, absl::StatusCode::kInternal, "x", 30);
  EXPECT_EQ(cluster.job(running.id).state(), v1::QUEUED);
  EXPECT_EQ(cluster.job(running.id).restarts(), 2);
}

TEST(AttemptTest, RepeatedKillsBackOffAndEndAfterMaxRestarts) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 1);
  v1::TrainingSpec spec = TestSpec("a", 1);
  spec.mutable_parallel()->set_max_restarts(2);
  const std::string id = cluster.Submit(spec);
  cluster.Killed(session, id, 1, 0, SIGKILL);
  EXPECT_EQ(cluster.job(id).epoch(), 2) << "the first restart is immediate";
  cluster.Killed(session, id, 2, 0, SIGKILL);
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED);
  EXPECT_NE(cluster.job(id).reason().find("in 1 s"), std::string::npos) << cluster.job(id).reason();
  cluster.Post(WorkerHeartbeat{session});
  cluster.Advance(999);
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED);
  cluster.Advance(1);
  EXPECT_EQ(cluster.job(id).epoch(), 3);
  cluster.Killed(session, id, 3, 0, SIGKILL);
  EXPECT_EQ(cluster.job(id).state(), v1::FAILED);
  EXPECT_NE(cluster.job(id).reason().find("max_restarts is 2"), std::string::npos);
}

TEST(AttemptTest, ProgressBetweenFailuresResetsTheBackoff) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  for (int64_t epoch = 1; epoch <= 4; ++epoch) {
    ASSERT_TRUE(cluster.CommitCheckpoint(running.id, epoch, 20 * epoch).ok());
    cluster.Killed(running.session, running.id, epoch, 0, SIGKILL);
    EXPECT_EQ(cluster.job(running.id).epoch(), epoch + 1) << "immediate";
  }
}

TEST(AttemptTest, RanksThatTheirWorkerStopsAreNoFailureOfTheJob) {
  ClusterHarness cluster;
  v1::TrainingSpec spec = TestSpec("a", 1);
  spec.mutable_parallel()->set_max_restarts(0);
  const uint64_t session = cluster.Connect("w1", 1);
  const std::string id = cluster.Submit(spec);
  cluster.Stopped(session, id, 1, 0);
  EXPECT_NE(cluster.job(id).state(), v1::FAILED);
  EXPECT_EQ(cluster.job(id).restarts(), 1);
}

TEST(AttemptTest, StaleEpochsAreStoppedAndNotBelieved) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 2);
  cluster.Killed(running.session, running.id, 1, 0, SIGKILL);
  ASSERT_EQ(cluster.job(running.id).epoch(), 2);
  cluster.Clear();
  cluster.Report(running.session, running.id, 1, 77);
  EXPECT_NE(cluster.job(running.id).progress().step(), 77);
  ASSERT_EQ(cluster.stops(running.session).size(), 1u);
  EXPECT_EQ(cluster.stops(running.session)[0].group().epoch(), 1);
  cluster.Done(running.session, running.id, 1, 0, 100);
  EXPECT_EQ(cluster.job(running.id).state(), v1::STARTING);
  EXPECT_EQ(cluster.CommitCheckpoint(running.id, 1, 50).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(DetailsOf(cluster.last_status).reason(), v1::STALE_EPOCH);
}

TEST(AttemptTest, RankThatDoesNotStopIsToldAgainAndGivenUp) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  cluster.Killed(running.session, running.id, 1, 1, SIGKILL);
  for (int second = 0; second < 70; ++second) {
    cluster.Post(WorkerHeartbeat{running.session});
    cluster.Advance(1000);
  }
  EXPECT_GE(cluster.stops(running.session).size(), 5u);
  EXPECT_EQ(cluster.job(running.id).state(), v1::QUEUED) << "its slot is still held";
  EXPECT_EQ(cluster.job(running.id).restarts(), 1);
  cluster.Stopped(running.session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).epoch(), 2);
}

TEST(AttemptTest, DamagedCheckpointIsNotRestoredAgain) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 20).ok());
  cluster.Killed(running.session, running.id, 1, 0, SIGKILL);
  EXPECT_EQ(cluster.starts(running.session).back().restore_step(), 20);
  cluster.Errored(running.session, running.id, 2, 0, absl::StatusCode::kDataLoss,
                  "shard 0 damaged");
  cluster.Advance(1000);
  EXPECT_EQ(cluster.starts(running.session).back().group().epoch(), 3);
  EXPECT_EQ(cluster.starts(running.session).back().restore_step(), 10);
  EXPECT_EQ(cluster.job(running.id).latest_checkpoint_step(), 10);
}

TEST(AttemptTest, KeptAttemptsAreBounded) {
  StateOptions options;
  options.max_kept_attempts = 3;
  ClusterHarness cluster(options);
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  for (int64_t epoch = 1; epoch <= 5; ++epoch) {
    cluster.Stopped(running.session, running.id, epoch, 0);
    cluster.Post(WorkerHeartbeat{running.session});
    cluster.Advance(4000);
    cluster.Post(WorkerHeartbeat{running.session});
    cluster.Advance(4000);
    ASSERT_EQ(cluster.job(running.id).epoch(), epoch + 1);
  }
  EXPECT_EQ(cluster.job(running.id).attempts_size(), 3);
  EXPECT_EQ(cluster.job(running.id).attempts(2).epoch(), 6);
}

}  // namespace
}  // namespace diffmoe::server
