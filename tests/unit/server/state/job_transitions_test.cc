#include <gtest/gtest.h>

#include "server/errors.h"
#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {
namespace {

TEST(SubmitTest, JobWaitsAndSaysWhatItNeeds) {
  ClusterHarness cluster;
  cluster.Connect("w1", 3);
  const std::string id = cluster.Submit(TestSpec("fashion", 4));
  EXPECT_EQ(id, "fashion-1");
  EXPECT_EQ(cluster.job(id).state(), v1::QUEUED);
  EXPECT_EQ(cluster.job(id).reason(), "needs 4 cpu slots, 3 are free of 3 in the cluster");
  EXPECT_EQ(cluster.job(id).latest_checkpoint_step(), -1);
}

TEST(SubmitTest, RankAreStartedTogetherOnFreeSlots) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 2);
  const std::string id = cluster.Submit(TestSpec("fashion", 2));
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
  const auto starts = cluster.starts(session);
  ASSERT_EQ(starts.size(), 2u);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(starts[rank].rank(), rank);
    EXPECT_EQ(starts[rank].slot(), rank);
    EXPECT_EQ(starts[rank].world_size(), 2);
    EXPECT_EQ(starts[rank].group().epoch(), 1);
    EXPECT_EQ(starts[rank].restore_step(), 0);
    EXPECT_EQ(starts[rank].spec().name(), "fashion");
  }
  ASSERT_EQ(cluster.all<GroupStarted>().size(), 1u);
}

TEST(SubmitTest, SameRequestIdGivesTheSameJobOnceMore) {
  ClusterHarness cluster;
  const std::string id = cluster.Submit(TestSpec("a", 1), "req", "hash");
  EXPECT_EQ(cluster.Submit(TestSpec("a", 1), "req", "hash"), id);
  EXPECT_EQ(cluster.state.jobs.size(), 1u);
  cluster.Restart();
  EXPECT_EQ(cluster.Submit(TestSpec("a", 1), "req", "hash"), id) << "also after a restart";
  EXPECT_EQ(cluster.Submit(TestSpec("a", 2), "req", "other"), "");
  EXPECT_EQ(cluster.last_status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(DetailsOf(cluster.last_status).reason(), v1::REQUEST_ID_REUSED);
  EXPECT_EQ(DetailsOf(cluster.last_status).resource(), "jobs/" + id);
}

TEST(SubmitTest, ActiveJobsAreBounded) {
  StateOptions options;
  options.max_active_jobs = 2;
  ClusterHarness cluster(options);
  cluster.Submit(TestSpec("a", 1));
  const std::string second = cluster.Submit(TestSpec("a", 1));
  EXPECT_EQ(cluster.Submit(TestSpec("a", 1)), "");
  EXPECT_EQ(cluster.last_status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(cluster.Cancel(second).ok());
  EXPECT_EQ(cluster.Submit(TestSpec("a", 1)), "a-3") << "an ended job makes room";
}

TEST(ScheduleTest, OldestJobFirstAndYoungerOnesWaitBehindIt) {
  ClusterHarness cluster;
  cluster.Connect("w1", 2);
  const std::string running = cluster.Submit(TestSpec("a", 1));
  const std::string big = cluster.Submit(TestSpec("b", 2));
  const std::string small = cluster.Submit(TestSpec("c", 1));
  EXPECT_EQ(cluster.job(running).state(), v1::STARTING);
  EXPECT_EQ(cluster.job(big).reason(), "needs 2 cpu slots, 1 is free of 2 in the cluster");
  EXPECT_EQ(cluster.job(small).state(), v1::QUEUED);
  EXPECT_EQ(cluster.job(small).reason_code(), v1::REASON_WAITS_FOR_TURN);
  EXPECT_EQ(DescribeTurn(cluster.state, cluster.state.jobs.at(small)),
            "waits for its turn behind jobs/" + big);
}

TEST(ScheduleTest, JobLargerThanTheClusterHoldsNobodyUp) {
  ClusterHarness cluster;
  cluster.Connect("w1", 2);
  const std::string huge = cluster.Submit(TestSpec("a", 9));
  const std::string small = cluster.Submit(TestSpec("b", 1));
  EXPECT_EQ(cluster.job(huge).state(), v1::QUEUED);
  EXPECT_EQ(cluster.job(small).state(), v1::STARTING);
}

TEST(ScheduleTest, WaitingJobStartsWhenAWorkerConnects) {
  ClusterHarness cluster;
  const std::string id = cluster.Submit(TestSpec("a", 2));
  const uint64_t session = cluster.Connect("w1", 2);
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
  EXPECT_EQ(cluster.starts(session).size(), 2u);
}

TEST(CancelTest, QueuedJobEndsAtOnce) {
  ClusterHarness cluster;
  const std::string id = cluster.Submit(TestSpec("a", 1));
  EXPECT_TRUE(cluster.Cancel(id).ok());
  EXPECT_EQ(cluster.job(id).state(), v1::CANCELLED);
  EXPECT_TRUE(cluster.job(id).has_end_time());
  EXPECT_TRUE(cluster.Cancel(id).ok()) << "idempotent";
}

TEST(CancelTest, RunningJobEndsWhenItsRanksHaveEnded) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  EXPECT_EQ(cluster.last_job.state(), v1::CANCELLING);
  ASSERT_EQ(cluster.stops(running.session).size(), 1u);
  EXPECT_EQ(cluster.stops(running.session)[0].group().epoch(), 1);
  EXPECT_TRUE(cluster.Cancel(running.id).ok()) << "idempotent";
  cluster.Stopped(running.session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLING);
  cluster.Killed(running.session, running.id, 1, 1, 9);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLED);
  EXPECT_EQ(cluster.all<GroupEnded>().size(), 1u);
  EXPECT_TRUE(cluster.state.active.empty());
}

TEST(CancelTest, CancelWhileAnAttemptIsEnding) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  cluster.Killed(running.session, running.id, 1, 0, 9);
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  cluster.Stopped(running.session, running.id, 1, 1);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLED) << "not restarted";
}

TEST(CancelTest, EndedAndUnknownJobs) {
  ClusterHarness cluster;
  EXPECT_EQ(cluster.Cancel("nope-1").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(DetailsOf(cluster.last_status).reason(), v1::JOB_NOT_FOUND);
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 100).ok());
  cluster.Done(running.session, running.id, 1, 0, 100);
  ASSERT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
  EXPECT_EQ(cluster.Cancel(running.id).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DetailsOf(cluster.last_status).reason(), v1::JOB_ALREADY_ENDED);
}

TEST(EventTest, SequencesHaveNoGaps) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  EXPECT_TRUE(cluster.Cancel(running.id).ok());
  cluster.Stopped(running.session, running.id, 1, 0);
  const std::vector<std::string> events = cluster.events(running.id);
  EXPECT_EQ(events.size(), static_cast<size_t>(
                               cluster.state.jobs.at(running.id).record.next_event_sequence() - 1));
  ASSERT_GE(events.size(), 5u);
  EXPECT_EQ(events.front(), "submitted");
  EXPECT_EQ(events.back(), "cancelled at step 12");
}

}  // namespace
}  // namespace diffmoe::server
