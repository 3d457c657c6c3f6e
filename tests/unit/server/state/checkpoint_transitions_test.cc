#include <gtest/gtest.h>

#include <csignal>

#include "diffmoe/v1/checkpoint.pb.h"
#include "server/errors.h"
#include "server/state/records.h"
#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {
namespace {

std::vector<int64_t> StepsOf(const ClusterHarness& cluster, const std::string& id) {
  std::vector<int64_t> steps;
  for (const auto& [step, epoch] : cluster.state.jobs.at(id).checkpoints) steps.push_back(step);
  return steps;
}

TEST(CheckpointTest, CommitIsARecordWithThresholds) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  EXPECT_TRUE(cluster.records.contains(ManifestKey(running.id, 10)));
  v1::ThresholdPoint point;
  ASSERT_TRUE(point.ParseFromString(cluster.records.at(ThresholdsKey(running.id, 10))));
  ASSERT_EQ(point.layers_size(), 1);
  EXPECT_EQ(point.layers(0).block(), 1);
  EXPECT_FLOAT_EQ(point.layers(0).thresholds(1), 0.75f);
  EXPECT_EQ(cluster.job(running.id).latest_checkpoint_step(), 10);
}

TEST(CheckpointTest, AnswerWaitsForTheStore) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 20).ok());
  const auto replies = cluster.all<Reply>();
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_TRUE(replies[0].waits_for_store);
}

TEST(CheckpointTest, NewestAreKept) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);  // keep: 2
  for (int64_t step : {20, 30, 40}) ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, step).ok());
  EXPECT_EQ(StepsOf(cluster, running.id), (std::vector<int64_t>{30, 40}));
  EXPECT_FALSE(cluster.records.contains(ManifestKey(running.id, 10)));
  const auto deleted = cluster.all<DeleteCheckpoint>();
  ASSERT_EQ(deleted.size(), 2u);
  EXPECT_EQ(deleted[0].step, 10);
  EXPECT_EQ(deleted[0].epoch, 1);
}

TEST(CheckpointTest, TheOneARunningAttemptWasRestoredFromIsKept) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Killed(running.session, running.id, 1, 0, SIGKILL);  // restored from 10
  for (int64_t step : {20, 30, 40}) ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 2, step).ok());
  EXPECT_EQ(StepsOf(cluster, running.id), (std::vector<int64_t>{10, 30, 40}));
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  cluster.Stopped(running.session, running.id, 2, 0);
  EXPECT_EQ(StepsOf(cluster, running.id), (std::vector<int64_t>{30, 40}));
}

TEST(CheckpointTest, TheOneASamplerReadsIsKept) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 2);
  const uint64_t call = cluster.Sample(running.id, 10);
  for (int64_t step : {20, 30, 40}) ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, step).ok());
  EXPECT_EQ(StepsOf(cluster, running.id), (std::vector<int64_t>{10, 30, 40}));
  cluster.Post(CancelSample{call});
  EXPECT_EQ(StepsOf(cluster, running.id), (std::vector<int64_t>{30, 40}));
}

TEST(CheckpointTest, LaterAttemptReplacesTheSameStep) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 20).ok());
  cluster.Post(CheckpointDamaged{running.id, 20, "shard 0 is damaged"});
  EXPECT_EQ(cluster.job(running.id).latest_checkpoint_step(), 10);
  cluster.Killed(running.session, running.id, 1, 0, SIGKILL);
  EXPECT_EQ(cluster.starts(running.session).back().restore_step(), 10);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 2, 20).ok());
  EXPECT_EQ(cluster.job(running.id).latest_checkpoint_step(), 20);
  EXPECT_EQ(cluster.state.jobs.at(running.id).checkpoints.at(20), 2);
  EXPECT_TRUE(cluster.state.jobs.at(running.id).record.damaged_steps().empty());
}

TEST(CheckpointTest, DamageSurvivesARestart) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 20).ok());
  cluster.Post(CheckpointDamaged{running.id, 20, "shard 0 is damaged"});
  cluster.Restart();
  const uint64_t call = cluster.Sample(running.id, 20);
  EXPECT_EQ(cluster.sample_ends.at(call).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(DetailsOf(cluster.sample_ends.at(call)).reason(), v1::CORRUPT_CHECKPOINT);
}

TEST(CheckpointTest, UnknownJobIsRefused) {
  ClusterHarness cluster;
  EXPECT_EQ(cluster.CommitCheckpoint("nobody-1", 1, 5).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace diffmoe::server
