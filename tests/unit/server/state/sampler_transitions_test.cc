#include <gtest/gtest.h>

#include "tests/unit/server/state/sampling_scene.h"

namespace diffmoe::server {
namespace {

TEST(SamplerTest, IdleOneIsReusedAndStoppedAfterAMinute) {
  Scene scene(1);
  scene.cluster.Sample(scene.running.id);
  const worker::v1::StartRank start = scene.StartSampler();
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 2u);
  EXPECT_EQ(scene.cluster.starts(scene.running.session).size(), 1u);
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[1]);
  for (int i = 0; i < 59; ++i) {
    scene.cluster.Post(WorkerHeartbeat{scene.running.session});
    scene.cluster.Advance(1000);
  }
  EXPECT_TRUE(scene.cluster.stops(scene.running.session).empty());
  scene.cluster.Post(WorkerHeartbeat{scene.running.session});
  scene.cluster.Advance(1000);
  ASSERT_EQ(scene.cluster.stops(scene.running.session).size(), 1u);
  EXPECT_EQ(scene.cluster.stops(scene.running.session)[0].group().id(), start.group().id());
  scene.cluster.Stopped(scene.running.session, start.group().id(), start.group().epoch(), 0);
  EXPECT_TRUE(scene.cluster.state.samplers.empty());
}

TEST(SamplerTest, IdleOneGivesItsSlotToAJob) {
  Scene scene(1);
  scene.cluster.Sample(scene.running.id);
  const worker::v1::StartRank start = scene.StartSampler();
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  const std::string job = scene.cluster.Submit(TestSpec("b", 1));
  EXPECT_EQ(scene.cluster.job(job).state(), v1::QUEUED);
  ASSERT_EQ(scene.cluster.stops(scene.running.session).size(), 1u);
  scene.cluster.Stopped(scene.running.session, start.group().id(), start.group().epoch(), 0);
  EXPECT_EQ(scene.cluster.job(job).state(), v1::STARTING);
}

TEST(SamplerTest, BusyOneGivesItsSlotAfterItsRequest) {
  Scene scene(1);
  const uint64_t first = scene.cluster.Sample(scene.running.id);
  const uint64_t second = scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  const std::string job = scene.cluster.Submit(TestSpec("b", 1));
  EXPECT_TRUE(scene.cluster.stops(scene.running.session).empty());
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  EXPECT_TRUE(scene.cluster.sample_ends.at(first).ok());
  EXPECT_EQ(scene.cluster.stops(scene.running.session).size(), 1u);
  EXPECT_FALSE(scene.cluster.sample_ends.contains(second)) << "it waits";
}

TEST(SamplerTest, NoneStartsWhileOthersMakeRoomForAJob) {
  Scene scene(2);
  ClusterHarness& cluster = scene.cluster;
  cluster.Sample(scene.running.id);
  const worker::v1::StartRank first = scene.StartSampler();
  cluster.Sample(scene.running.id);
  const worker::v1::StartRank second = scene.StartSampler();
  const uint64_t third = cluster.Sample(scene.running.id);
  const std::string job = cluster.Submit(TestSpec("b", 2));
  const size_t starts = cluster.starts(scene.running.session).size();
  // One slot is free now; the sample that waits must not take it from the job.
  cluster.FinishSample(cluster.tasks(scene.running.session)[0]);
  cluster.Stopped(scene.running.session, first.group().id(), first.group().epoch(), 0);
  EXPECT_EQ(cluster.starts(scene.running.session).size(), starts);
  EXPECT_EQ(cluster.responses(third).back().queued().reason(),
            "a job that waits gets the next free slots");
  cluster.FinishSample(cluster.tasks(scene.running.session)[1]);
  cluster.Stopped(scene.running.session, second.group().id(), second.group().epoch(), 0);
  EXPECT_EQ(cluster.job(job).state(), v1::STARTING);
}

TEST(SamplerTest, JobThatWouldNotFitAnywayDisturbsNobody) {
  Scene scene(1);
  scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  scene.cluster.Submit(TestSpec("b", 5));
  EXPECT_TRUE(scene.cluster.stops(scene.running.session).empty());
}

TEST(SamplerTest, IdsAreNotUsedAgainAfterARestart) {
  Scene scene(1);
  scene.cluster.Sample(scene.running.id);
  const std::string before = scene.cluster.starts(scene.running.session).back().group().id();
  scene.cluster.Restart();
  const uint64_t session = scene.cluster.Connect(
      "w1", 2, {Running(scene.running.id, 1, 0, 0), Running(before, 1, 0, 1)});
  ASSERT_EQ(scene.cluster.stops(session).size(), 1u) << "samplers are soft state";
  scene.cluster.Stopped(session, before, 1, 0);
  scene.cluster.Sample(scene.running.id);
  ASSERT_EQ(scene.cluster.starts(session).size(), 1u);
  EXPECT_NE(scene.cluster.starts(session)[0].group().id(), before);
}

TEST(SamplerTest, IsReadyWithItsSessionThoughItsStartWasLost) {
  Scene scene(1);
  ClusterHarness& cluster = scene.cluster;
  cluster.Sample(scene.running.id);
  const worker::v1::StartRank start = cluster.starts(scene.running.session).back();
  EXPECT_TRUE(cluster.tasks(scene.running.session).empty());
  cluster.ConnectSampler(scene.running.session, start.group().id(), start.group().epoch());
  EXPECT_EQ(cluster.tasks(scene.running.session).size(), 1u);
}

TEST(SamplerTest, KeepsItsRequestsWhenItsWorkerConnectsAgain) {
  Scene scene(1);
  ClusterHarness& cluster = scene.cluster;
  const uint64_t call = cluster.Sample(scene.running.id);
  const worker::v1::StartRank start = scene.StartSampler();
  const worker::v1::SampleTask task = cluster.tasks(scene.running.session).at(0);
  cluster.Connect("w1", 2,
                  {Running(scene.running.id, 1, 0, 0),
                   Running(start.group().id(), start.group().epoch(), 0, 1)});
  cluster.FinishSample(task);
  ASSERT_TRUE(cluster.sample_ends.contains(call));
  EXPECT_TRUE(cluster.sample_ends.at(call).ok());
}

TEST(SamplerTest, RequestsOfALostSessionAreGivenAwayAgain) {
  Scene scene(1);
  ClusterHarness& cluster = scene.cluster;
  const uint64_t call = cluster.Sample(scene.running.id);
  const worker::v1::StartRank start = cluster.starts(scene.running.session).back();
  const std::string id = start.group().id();
  const uint64_t session = cluster.ConnectSampler(scene.running.session, id, start.group().epoch());
  const worker::v1::SampleTask first = cluster.tasks(scene.running.session).at(0);
  cluster.Update(first, Started());
  cluster.Post(SamplerDisconnected{session});
  EXPECT_EQ(cluster.state.samplers.at(id).phase, SamplerPhase::kStarting);
  EXPECT_EQ(cluster.responses(call).back().queued().reason(), "starting a sampler on worker w1");
  cluster.ConnectSampler(scene.running.session, id, start.group().epoch());
  ASSERT_EQ(cluster.tasks(scene.running.session).size(), 2u);
  const worker::v1::SampleTask second = cluster.tasks(scene.running.session)[1];
  EXPECT_NE(second.request_id(), first.request_id()) << "so that late updates are told apart";
  cluster.FinishSample(first);
  EXPECT_FALSE(cluster.sample_ends.contains(call)) << "its session is over";
  cluster.FinishSample(second);
  EXPECT_TRUE(cluster.sample_ends.at(call).ok());
}

TEST(SamplerTest, NewerSessionReplacesTheOlderOne) {
  Scene scene(1);
  ClusterHarness& cluster = scene.cluster;
  cluster.Sample(scene.running.id);
  const worker::v1::GroupId group = cluster.starts(scene.running.session).back().group();
  const uint64_t old = cluster.ConnectSampler(scene.running.session, group.id(), group.epoch());
  cluster.ConnectSampler(scene.running.session, group.id(), group.epoch());
  const auto closed = cluster.all<CloseSampler>();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].session, old);
  EXPECT_EQ(closed[0].status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(cluster.tasks(scene.running.session).size(), 2u);
  cluster.Post(SamplerDisconnected{old});
  EXPECT_EQ(cluster.state.samplers.at(group.id()).phase, SamplerPhase::kReady);
}

TEST(SamplerTest, SessionOfAnUnknownOneIsRefused) {
  Scene scene(1);
  const uint64_t session = scene.cluster.ConnectSampler(scene.running.session, "sampler-77", 77);
  const auto closed = scene.cluster.all<CloseSampler>();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].session, session);
  EXPECT_EQ(closed[0].status, absl::AbortedError("epoch 77 of sampler-77 is not wanted"));
}

TEST(SamplerTest, OneThatNeverConnectsIsStopped) {
  Scene scene(1);
  ClusterHarness& cluster = scene.cluster;
  const uint64_t call = cluster.Sample(scene.running.id);
  const int64_t limit_ms = cluster.state.options.sampler_start_ms;
  const auto pass = [&](int64_t ms) {
    for (int64_t passed = 0; passed < ms; passed += 1000) {
      cluster.Post(WorkerHeartbeat{scene.running.session});
      cluster.Advance(1000);
    }
  };
  pass(limit_ms - 1000);
  EXPECT_TRUE(cluster.stops(scene.running.session).empty());
  pass(2000);
  ASSERT_EQ(cluster.stops(scene.running.session).size(), 1u);
  EXPECT_FALSE(cluster.sample_ends.contains(call)) << "another one is tried";
  pass(3 * limit_ms);
  ASSERT_TRUE(cluster.sample_ends.contains(call)) << "not for ever";
  EXPECT_EQ(cluster.sample_ends.at(call).code(), absl::StatusCode::kUnavailable);
}

TEST(SamplerTest, LoopReadsOnWhenItHasTakenTheUpdatesIn) {
  Scene scene(1);
  scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  scene.cluster.Update(scene.cluster.tasks(scene.running.session).at(0), Started());
  EXPECT_EQ(scene.cluster.all<ReadSampler>().size(), 1u);
}

TEST(SamplerTest, LostWorkerTakesItsSamplerAlong) {
  Scene scene(0);
  const uint64_t other = scene.cluster.Connect("w2", 1);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  const auto start = scene.cluster.starts(other).back();
  scene.cluster.Started(other, start.group().id(), start.group().epoch(), 0);
  scene.cluster.Post(SessionClosed{other});
  for (int i = 0; i < 10; ++i) {
    scene.cluster.Post(WorkerHeartbeat{scene.running.session});
    scene.cluster.Advance(1000);
  }
  EXPECT_TRUE(scene.cluster.state.samplers.empty());
  EXPECT_EQ(scene.cluster.responses(call).back().queued().reason(),
            "no slot is free for a sampler: all 1 are in use");
}

StateOptions KeepOneSlot() {
  StateOptions options;
  options.sampling_slots = 1;
  return options;
}

TEST(SamplingSlotsTest, JobsLeaveThemFree) {
  ClusterHarness cluster(KeepOneSlot());
  cluster.Connect("w1", 2);
  const std::string first = cluster.Submit(TestSpec("a", 1));
  const std::string second = cluster.Submit(TestSpec("b", 1));
  EXPECT_EQ(cluster.job(first).state(), v1::STARTING);
  EXPECT_EQ(cluster.job(second).state(), v1::QUEUED);
  EXPECT_EQ(cluster.job(second).reason(),
            "needs 1 cpu slot, 0 are free of 1 in the cluster; 1 more is kept for sampling");
  const std::string large = cluster.Submit(TestSpec("c", 2));
  EXPECT_EQ(cluster.job(large).state(), v1::QUEUED);
}

TEST(SamplingSlotsTest, SamplersOnThemDontYield) {
  Scene scene(1, KeepOneSlot());
  scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  const std::string job = scene.cluster.Submit(TestSpec("b", 1));
  EXPECT_EQ(scene.cluster.job(job).state(), v1::QUEUED);
  EXPECT_TRUE(scene.cluster.stops(scene.running.session).empty());
}

TEST(SamplingSlotsTest, OthersDo) {
  Scene scene(2, KeepOneSlot());
  scene.cluster.Sample(scene.running.id);
  const auto first = scene.StartSampler();
  scene.cluster.Load(first.group(), 0, 0.01, 1000, 1);
  scene.cluster.Sample(scene.running.id);
  const auto second = scene.StartSampler();
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[1]);
  const std::string job = scene.cluster.Submit(TestSpec("b", 1));
  ASSERT_EQ(scene.cluster.stops(scene.running.session).size(), 1u);
  EXPECT_EQ(scene.cluster.stops(scene.running.session)[0].group().id(), second.group().id());
  scene.cluster.Stopped(scene.running.session, second.group().id(), second.group().epoch(), 0);
  EXPECT_EQ(scene.cluster.job(job).state(), v1::STARTING);
}

TEST(SamplingSlotsTest, OneStartsThereThoughAJobWaits) {
  ClusterHarness cluster(KeepOneSlot());
  const RunningJob running = StartRunningJob(cluster, 1, 2);
  cluster.Submit(TestSpec("b", 1));
  cluster.Sample(running.id);
  EXPECT_EQ(cluster.starts(running.session).size(), 1u);
}

TEST(SamplerTest, UnderSteadyLoadItGivesItsSlotToAJob) {
  Scene scene(1, StateOptions());
  const uint64_t before = scene.cluster.Sample(scene.running.id);
  const auto start = scene.StartSampler();
  const std::string job = scene.cluster.Submit(TestSpec("b", 1));
  const uint64_t after = scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 1u) << "nothing new goes to it";
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  EXPECT_TRUE(scene.cluster.sample_ends.at(before).ok());
  ASSERT_EQ(scene.cluster.stops(scene.running.session).size(), 1u);
  scene.cluster.Stopped(scene.running.session, start.group().id(), start.group().epoch(), 0);
  EXPECT_EQ(scene.cluster.job(job).state(), v1::STARTING);
  EXPECT_FALSE(scene.cluster.sample_ends.contains(after));
}

TEST(SamplerTest, TakesRequestsAgainWhenTheJobIsGone) {
  Scene scene(1, StateOptions());
  scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  const std::string job = scene.cluster.Submit(TestSpec("b", 1));
  scene.cluster.Sample(scene.running.id);
  ASSERT_EQ(scene.cluster.tasks(scene.running.session).size(), 1u);
  ASSERT_TRUE(scene.cluster.Cancel(job).ok());
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 2u);
}

}  // namespace
}  // namespace diffmoe::server
