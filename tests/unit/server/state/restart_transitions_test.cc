// One restore rule for each state of a job.
#include <gtest/gtest.h>

#include <csignal>

#include "server/state/records.h"
#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {
namespace {

TEST(RestartTest, EmptyStoreStarts) {
  ClusterHarness cluster;
  cluster.Restart();
  EXPECT_TRUE(cluster.last_status.ok());
  EXPECT_TRUE(cluster.records.contains(kHeaderKey));
}

TEST(RestartTest, QueuedJobWaitsAgainAndIdsGoOn) {
  ClusterHarness cluster;
  const std::string id = cluster.Submit(TestSpec("a", 1));
  cluster.Restart();
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED);
  EXPECT_EQ(cluster.Submit(TestSpec("a", 1)), "a-2");
  const uint64_t session = cluster.Connect("w1", 2);
  EXPECT_EQ(cluster.starts(session).size(), 2u);
}

TEST(RestartTest, BackoffIsKept) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 1);
  const std::string id = cluster.Submit(TestSpec("a", 1));
  cluster.Killed(session, id, 1, 0, SIGKILL);
  cluster.Killed(session, id, 2, 0, SIGKILL);
  cluster.Killed(session, id, 3, 0, SIGKILL);
  cluster.Restart();
  const uint64_t again = cluster.Connect("w1", 1);
  EXPECT_EQ(cluster.job(id).epoch(), 2);
  cluster.Advance(400);
  EXPECT_EQ(cluster.job(id).epoch(), 2);
  cluster.Advance(600);
  EXPECT_EQ(cluster.job(id).epoch(), 3);
  EXPECT_EQ(cluster.starts(again).size(), 1u);
}

TEST(RestartTest, RunningJobIsAdopted) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 3);
  cluster.Restart();
  EXPECT_EQ(cluster.job(running.id).state(), v1::RUNNING);
  EXPECT_EQ(cluster.all<GroupStarted>().size(), 1u) << "its ranks may use the bulk plane";
  const uint64_t session =
      cluster.Connect("w1", 3, {Running(running.id, 1, 0, 0), Running(running.id, 1, 1, 1)});
  cluster.Report(session, running.id, 1, 55);
  for (int i = 0; i < 20; ++i) {
    cluster.Advance(1000);
    cluster.Post(WorkerHeartbeat{session});
  }
  EXPECT_EQ(cluster.job(running.id).epoch(), 1);
  EXPECT_EQ(cluster.job(running.id).restarts(), 0);
  EXPECT_EQ(cluster.job(running.id).progress().step(), 55);
  EXPECT_TRUE(cluster.starts(session).empty());
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 100).ok());
  cluster.Done(session, running.id, 1, 0, 100);
  cluster.Done(session, running.id, 1, 1, 100);
  EXPECT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
}

TEST(RestartTest, StartingJobIsAdoptedAndRuns) {
  ClusterHarness cluster;
  cluster.Connect("w1", 1);
  const std::string id = cluster.Submit(TestSpec("a", 1));
  cluster.Restart();
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
  const uint64_t session = cluster.Connect("w1", 1, {Running(id, 1, 0, 0)});
  cluster.Report(session, id, 1, 1);
  EXPECT_EQ(cluster.job(id).state(), v1::RUNNING);
  EXPECT_EQ(cluster.job(id).epoch(), 1);
}

TEST(RestartTest, RanksOnTwoWorkersAreAdoptedOneByOne) {
  ClusterHarness cluster;
  const uint64_t s1 = cluster.Connect("w1", 1);
  const uint64_t s2 = cluster.Connect("w2", 1);
  const std::string id = cluster.Submit(TestSpec("a", 2));
  ASSERT_EQ(cluster.starts(s1).size(), 1u);
  ASSERT_EQ(cluster.starts(s2).size(), 1u);
  cluster.Restart();
  cluster.Connect("w1", 1, {Running(id, 1, 0, 0)});
  EXPECT_TRUE(cluster.state.jobs.at(id).attempt.adopt_until_ms.has_value());
  cluster.Connect("w2", 1, {Running(id, 1, 1, 0)});
  EXPECT_FALSE(cluster.state.jobs.at(id).attempt.adopt_until_ms.has_value());
}

TEST(RestartTest, JobWhoseRanksDoNotComeRestartsAfterTheGrace) {
  ClusterHarness cluster;
  v1::TrainingSpec spec = TestSpec("a", 1);
  spec.mutable_parallel()->set_max_restarts(0);
  cluster.Connect("w1", 1);
  const std::string id = cluster.Submit(spec);
  cluster.Restart();
  cluster.Advance(9'999);
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
  cluster.Advance(1);
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED) << "not counted against max_restarts";
  const auto counted = cluster.all<RestartCounted>();
  ASSERT_EQ(counted.size(), 1u);
  EXPECT_EQ(counted[0].cause, v1::END_CAUSE_COORDINATOR_RESTART);
  const uint64_t session = cluster.Connect("w9", 1);
  ASSERT_EQ(cluster.starts(session).size(), 1u);
  EXPECT_EQ(cluster.starts(session)[0].group().epoch(), 2);
}

TEST(RestartTest, HalfAGangIsStoppedAndRestarted) {
  ClusterHarness cluster;
  const uint64_t s1 = cluster.Connect("w1", 1);
  cluster.Connect("w2", 1);
  const std::string id = cluster.Submit(TestSpec("a", 2));
  ASSERT_EQ(cluster.starts(s1).size(), 1u);
  cluster.Restart();
  const uint64_t session = cluster.Connect("w1", 1, {Running(id, 1, 0, 0)});
  for (int i = 0; i < 10; ++i) {
    cluster.Post(WorkerHeartbeat{session});
    cluster.Advance(1000);
  }
  ASSERT_EQ(cluster.stops(session).size(), 1u);
  cluster.Stopped(session, id, 1, 0);
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED);
}

TEST(RestartTest, CoordinatorAndWorkerRestartTogether) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Restart();
  const uint64_t session = cluster.Connect("w1", 1);  // its ranks died with it
  cluster.Advance(2000);
  ASSERT_EQ(cluster.starts(session).size(), 1u);
  EXPECT_EQ(cluster.starts(session)[0].restore_step(), 10);
}

TEST(RestartTest, CancellingJobEndsWhenItsRanksAreStopped) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  cluster.Restart();
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLING);
  const uint64_t session = cluster.Connect("w1", 1, {Running(running.id, 1, 0, 0)});
  ASSERT_EQ(cluster.stops(session).size(), 1u);
  cluster.Stopped(session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLED);
}

TEST(RestartTest, CancellingJobWithoutRanksEndsAfterTheGrace) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  cluster.Restart();
  cluster.Advance(10'000);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLED);
}

TEST(RestartTest, EndedJobsStay) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  const std::string cancelled = cluster.Submit(TestSpec("b", 1));
  EXPECT_TRUE(cluster.Cancel(cancelled).ok());
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 100).ok());
  cluster.Done(running.session, running.id, 1, 0, 100);
  const std::string before = cluster.records.at(JobKey(running.id));
  cluster.Restart();
  cluster.Advance(60'000);
  EXPECT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
  EXPECT_EQ(cluster.job(cancelled).state(), v1::CANCELLED);
  EXPECT_EQ(cluster.records.at(JobKey(running.id)), before);
}

TEST(RestartTest, FinishedJobWhoseLastWordsWereLostSucceeds) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 100).ok());
  cluster.Restart();
  cluster.Connect("w1", 1);
  cluster.Advance(2000);
  EXPECT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
}

TEST(RestartTest, StrangeRanksAreStopped) {
  ClusterHarness cluster;
  const uint64_t session =
      cluster.Connect("w1", 2, {Running("gone-7", 3, 0, 0), Running("sampler-4", 4, 0, 1)});
  EXPECT_EQ(cluster.stops(session).size(), 2u);
  const std::string id = cluster.Submit(TestSpec("a", 1));
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED) << "their slots are in use";
  cluster.Stopped(session, "gone-7", 3, 0);
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
}

TEST(RestartTest, EveryCommitPointRestoresTheSameJobs) {
  // Cut the history after every single event: what the records hold must always load and settle.
  for (int cut = 0; cut < 9; ++cut) {
    ClusterHarness cluster;
    int n = 0;
    const auto next = [&] { return n++ < cut; };
    uint64_t session = 0;
    std::string id;
    if (next()) session = cluster.Connect("w1", 2);
    if (next()) id = cluster.Submit(TestSpec("a", 2));
    if (next()) cluster.Started(session, id, 1, 0);
    if (next()) cluster.Report(session, id, 1, 5);
    if (next()) cluster.CommitCheckpoint(id, 1, 10).IgnoreError();
    if (next()) cluster.Killed(session, id, 1, 1, SIGKILL);
    if (next()) cluster.Stopped(session, id, 1, 0);
    if (next()) cluster.Cancel(id).IgnoreError();
    const size_t jobs = cluster.state.jobs.size();
    cluster.Restart();
    ASSERT_TRUE(cluster.last_status.ok()) << "cut " << cut;
    ASSERT_EQ(cluster.state.jobs.size(), jobs) << "cut " << cut;
    cluster.Connect("w1", 2);
    cluster.Advance(30'000);
    if (id.empty()) continue;
    const v1::JobState state = cluster.job(id).state();
    EXPECT_TRUE(state == v1::STARTING || state == v1::QUEUED || state == v1::CANCELLED)
        << "cut " << cut << ": " << v1::JobState_Name(state);
    if (cut >= 8) {
      EXPECT_EQ(state, v1::CANCELLED);
    }
  }
}

TEST(LoadTest, BadRecordsAreNamed) {
  StateOptions options;
  EXPECT_EQ(LoadState({{"jobs/a-1", "\xff\xff"}}, options).status().code(),
            absl::StatusCode::kDataLoss);
  internal::v1::StoreHeader header;
  header.set_schema_version(kSchemaVersion + 1);
  EXPECT_EQ(LoadState({{kHeaderKey, header.SerializeAsString()}}, options).status().code(),
            absl::StatusCode::kFailedPrecondition);
  worker::v1::Manifest manifest;
  manifest.set_job_id("nobody-1");
  EXPECT_EQ(LoadState({{ManifestKey("nobody-1", 5), manifest.SerializeAsString()}}, options)
                .status()
                .code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace diffmoe::server
