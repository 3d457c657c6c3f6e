#include <gtest/gtest.h>

#include <csignal>

#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {
namespace {

TEST(WorkerTest, HelloIsWelcomedWithTheLimits) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 1);
  const auto sends = cluster.all<SendToWorker>();
  ASSERT_FALSE(sends.empty());
  EXPECT_EQ(sends[0].session, session);
  EXPECT_EQ(sends[0].message.welcome().heartbeat_interval_ms(), 1000);
  EXPECT_EQ(sends[0].message.welcome().silence_limit_ms(), 4500);
}

TEST(WorkerTest, SilentWorkerGetsNoWorkAndComesBack) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 1);
  cluster.Advance(4500);
  EXPECT_TRUE(cluster.state.workers.at("w1").silent);
  const std::string id = cluster.Submit(TestSpec("a", 1));
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED);
  cluster.Post(WorkerHeartbeat{session});
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
}

TEST(WorkerTest, HeartbeatsKeepItConnected) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 1);
  for (int i = 0; i < 60; ++i) {
    cluster.Advance(1000);
    cluster.Post(WorkerHeartbeat{session});
  }
  EXPECT_TRUE(cluster.state.workers.at("w1").Usable());
}

TEST(WorkerTest, BrokenStreamWithinTheGraceCostsNothing) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  cluster.Post(SessionClosed{running.session});
  cluster.Advance(9000);
  const uint64_t session =
      cluster.Connect("w1", 2, {Running(running.id, 1, 0, 0), Running(running.id, 1, 1, 1)});
  cluster.Report(session, running.id, 1, 40);
  cluster.Advance(3000);
  EXPECT_EQ(cluster.job(running.id).state(), v1::RUNNING);
  EXPECT_EQ(cluster.job(running.id).epoch(), 1);
  EXPECT_EQ(cluster.job(running.id).progress().step(), 40);
  EXPECT_TRUE(cluster.stops(session).empty());
}

TEST(WorkerTest, LostWorkerLosesItsRanksAndTheJobMovesOn) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  const uint64_t other = cluster.Connect("w2", 2);
  cluster.Post(SessionClosed{running.session});
  for (int i = 0; i < 10; ++i) {
    cluster.Post(WorkerHeartbeat{other});
    cluster.Advance(1000);
  }
  EXPECT_TRUE(cluster.state.workers.at("w1").lost);
  EXPECT_EQ(cluster.job(running.id).epoch(), 2);
  EXPECT_EQ(cluster.starts(other).size(), 2u);
  EXPECT_NE(cluster.job(running.id).attempts(0).end_reason().find("worker w1 is lost"),
            std::string::npos);
  EXPECT_EQ(cluster.state.jobs.at(running.id).job().failures(), 0) << "not the job's fault";
}

TEST(WorkerTest, LostWorkerThatComesBackStopsItsOldRanks) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Post(SessionClosed{running.session});
  cluster.Advance(10'000);
  EXPECT_EQ(cluster.job(running.id).state(), v1::QUEUED);
  const uint64_t session = cluster.Connect("w1", 1, {Running(running.id, 1, 0, 0)});
  ASSERT_EQ(cluster.stops(session).size(), 1u);
  EXPECT_TRUE(cluster.starts(session).empty()) << "the slot is still in use";
  cluster.Stopped(session, running.id, 1, 0);
  EXPECT_EQ(cluster.starts(session).size(), 1u);
  EXPECT_EQ(cluster.job(running.id).epoch(), 2);
}

TEST(WorkerTest, NewerSessionOfTheSameWorkerReplacesTheOlder) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  const uint64_t newer = cluster.Connect("w1", 1, {Running(running.id, 1, 0, 0)});
  const auto closed = cluster.all<CloseSession>();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].session, running.session);
  cluster.Post(SessionClosed{running.session});
  EXPECT_TRUE(cluster.state.workers.at("w1").Usable()) << "the end of the old one means nothing";
  cluster.Report(running.session, running.id, 1, 99);
  EXPECT_NE(cluster.job(running.id).progress().step(), 99) << "the old one isn't heard any more";
  cluster.Report(newer, running.id, 1, 50);
  EXPECT_EQ(cluster.job(running.id).progress().step(), 50);
}

TEST(WorkerTest, RanksThatAWorkerComesBackWithoutAreGoneAfterAGrace) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Post(SessionClosed{running.session});
  const uint64_t session = cluster.Connect("w1", 1);
  EXPECT_EQ(cluster.job(running.id).epoch(), 1);
  cluster.Advance(2000);
  EXPECT_EQ(cluster.job(running.id).epoch(), 2);
  EXPECT_EQ(cluster.starts(session).size(), 1u);
}

TEST(WorkerTest, ExitMessageAfterTheReturnTellsTheTruth) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 100).ok());
  cluster.Post(SessionClosed{running.session});
  const uint64_t session = cluster.Connect("w1", 1);
  cluster.Done(session, running.id, 1, 0, 100);
  EXPECT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
}

TEST(WorkerTest, StopIsRepeatedToAWorkerThatWasAway) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Post(SessionClosed{running.session});
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  const uint64_t session = cluster.Connect("w1", 1, {Running(running.id, 1, 0, 0)});
  ASSERT_EQ(cluster.stops(session).size(), 1u);
  cluster.Stopped(session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLED);
}

TEST(WorkerTest, CancelOfAJobOnALostWorkerEnds) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Post(SessionClosed{running.session});
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  cluster.Advance(10'000);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLED);
}

TEST(WorkerTest, TimeThatTheCoordinatorWasAwayIsNobodysSilence) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.now.monotonic_ms += 3'600'000;
  cluster.state.workers.at("w1");
  // The loop sees that it was away and says so before anything else.
  for (const Effect& effect : Step(cluster.state, Resumed{}, cluster.now)) {
    EXPECT_FALSE(std::holds_alternative<CloseSession>(effect));
  }
  cluster.Advance(4000);
  EXPECT_TRUE(cluster.state.workers.at("w1").Usable());
  EXPECT_EQ(cluster.job(running.id).epoch(), 1);
}

TEST(WorkerTest, WorkersAreBoundedAndForgotten) {
  StateOptions options;
  options.max_workers = 1;
  ClusterHarness cluster(options);
  cluster.Connect("w1", 1);
  const uint64_t refused = cluster.Connect("w2", 1);
  const auto closed = cluster.all<CloseSession>();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].session, refused);
  cluster.Advance(15'000);
  EXPECT_TRUE(cluster.state.workers.at("w1").lost);
  cluster.Advance(600'000);
  EXPECT_TRUE(cluster.state.workers.empty());
}

}  // namespace
}  // namespace diffmoe::server
