// Pause, resume, retry, fork, priority, preemption, and jobs that shrink and grow.
#include <gtest/gtest.h>

#include <csignal>

#include "server/errors.h"
#include "server/state/records.h"
#include "server/state/retry_policy.h"
#include "tests/unit/server/state/cluster_harness.h"

namespace diffmoe::server {
namespace {

v1::TrainingSpec ElasticSpec(const std::string& name, int min_ranks, int ranks) {
  v1::TrainingSpec spec = TestSpec(name, ranks);
  spec.mutable_parallel()->set_min_ranks(min_ranks);
  return spec;
}

TEST(PauseTest, RanksSaveAndTheJobWaitsUntilItIsResumed) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  ASSERT_TRUE(cluster.Pause(running.id).ok());
  EXPECT_EQ(cluster.last_job.state(), v1::PAUSING);
  const auto stops = cluster.stops(running.session);
  ASSERT_EQ(stops.size(), 1u);
  EXPECT_TRUE(stops[0].save());
  EXPECT_EQ(stops[0].grace_ms(), cluster.state.options.save_stop_grace_ms);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 17).ok());
  cluster.Stopped(running.session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::PAUSING);
  cluster.Stopped(running.session, running.id, 1, 1);
  const v1::Job& job = cluster.job(running.id);
  EXPECT_EQ(job.state(), v1::PAUSED);
  EXPECT_EQ(job.reason(), "paused; goes on from step 17");
  EXPECT_EQ(job.next_command(), "diffmoe job resume " + running.id);
  EXPECT_EQ(job.attempts(0).end_cause(), v1::END_CAUSE_USER);
  EXPECT_TRUE(cluster.Pause(running.id).ok()) << "idempotent";
  const std::string other = cluster.Submit(TestSpec("b", 2));
  EXPECT_EQ(cluster.job(other).state(), v1::STARTING) << "a paused job holds no slots";
  ASSERT_TRUE(cluster.Cancel(other).ok());
  cluster.Stopped(running.session, other, 1, 0);
  cluster.Stopped(running.session, other, 1, 1);
  cluster.Clear();
  ASSERT_TRUE(cluster.Resume(running.id).ok());
  EXPECT_EQ(cluster.job(running.id).state(), v1::STARTING);
  ASSERT_EQ(cluster.starts(running.session).size(), 2u);
  EXPECT_EQ(cluster.starts(running.session)[0].restore_step(), 17);
  EXPECT_EQ(cluster.job(running.id).restarts(), 0);
}

TEST(PauseTest, RankThatEndsBeforeItsWorkerIsToldIsNoFailure) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  ASSERT_TRUE(cluster.Pause(running.id).ok());
  cluster.Errored(running.session, running.id, 1, 0, absl::StatusCode::kCancelled,
                  "stopped with a checkpoint of step 14");
  cluster.Stopped(running.session, running.id, 1, 1);
  EXPECT_EQ(cluster.job(running.id).state(), v1::PAUSED);
  EXPECT_EQ(cluster.job(running.id).failures(), 0);
}

TEST(PauseTest, WaitingJobIsPausedAtOnceAndStaysSoOverARestart) {
  ClusterHarness cluster;
  const std::string id = cluster.Submit(TestSpec("a", 1));
  ASSERT_TRUE(cluster.Pause(id).ok());
  EXPECT_EQ(cluster.job(id).state(), v1::PAUSED);
  cluster.Restart();
  cluster.Connect("w1", 1);
  EXPECT_EQ(cluster.job(id).state(), v1::PAUSED);
  ASSERT_TRUE(cluster.Resume(id).ok());
  EXPECT_EQ(cluster.job(id).state(), v1::STARTING);
}

TEST(PauseTest, ResumeBeforeTheRanksHaveEndedStartsThemAgain) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.Pause(running.id).ok());
  ASSERT_TRUE(cluster.Resume(running.id).ok());
  EXPECT_EQ(cluster.job(running.id).state(), v1::PAUSING);
  cluster.Stopped(running.session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::STARTING);
  EXPECT_EQ(cluster.job(running.id).epoch(), 2);
}

TEST(PauseTest, RankThatDiesWhileSavingLeavesThePauseStanding) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  ASSERT_TRUE(cluster.Pause(running.id).ok());
  cluster.Killed(running.session, running.id, 1, 1, SIGKILL);
  const auto stops = cluster.stops(running.session);
  ASSERT_EQ(stops.size(), 2u);
  EXPECT_FALSE(stops[1].save()) << "the other can't save alone";
  cluster.Stopped(running.session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::PAUSED);
  EXPECT_EQ(cluster.job(running.id).reason(), "paused; goes on from step 10");
}

TEST(PauseTest, PausingSurvivesARestartOfTheCoordinator) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.Pause(running.id).ok());
  cluster.Restart();
  EXPECT_EQ(cluster.job(running.id).state(), v1::PAUSING);
  const uint64_t session = cluster.Connect("w1", 1, {Running(running.id, 1, 0, 0)});
  ASSERT_EQ(cluster.stops(session).size(), 1u);
  EXPECT_TRUE(cluster.stops(session)[0].save());
  cluster.Stopped(session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::PAUSED);
}

TEST(PauseTest, JobThatFinishesInsteadSucceeds) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.Pause(running.id).ok());
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 100).ok());
  cluster.Done(running.session, running.id, 1, 0, 100);
  EXPECT_EQ(cluster.job(running.id).state(), v1::SUCCEEDED);
  EXPECT_EQ(DetailsOf(cluster.Pause(running.id)).reason(), v1::JOB_ALREADY_ENDED);
  EXPECT_EQ(DetailsOf(cluster.Resume(running.id)).reason(), v1::JOB_ALREADY_ENDED);
}

TEST(PauseTest, CancelOfAPausingJobStopsItsRanksAtOnce) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  ASSERT_TRUE(cluster.Pause(running.id).ok());
  ASSERT_TRUE(cluster.Cancel(running.id).ok());
  ASSERT_EQ(cluster.stops(running.session).size(), 2u);
  EXPECT_FALSE(cluster.stops(running.session)[1].save());
  cluster.Stopped(running.session, running.id, 1, 0);
  EXPECT_EQ(cluster.job(running.id).state(), v1::CANCELLED);
}

TEST(ForkTest, StartsFromTheOthersCheckpointAndKeepsIt) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 3);
  v1::TrainingSpec spec = TestSpec("variant", 1);
  spec.mutable_optimizer()->set_learning_rate(0.5);
  const std::string fork = cluster.Fork(running.id, 10, spec);
  ASSERT_EQ(fork, "variant-2") << cluster.last_status;
  EXPECT_EQ(cluster.job(fork).forked_from(), "jobs/job-1/checkpoints/10");
  const auto starts = cluster.starts(running.session);
  ASSERT_EQ(starts.size(), 1u);
  EXPECT_EQ(starts[0].restore_job(), running.id);
  EXPECT_EQ(starts[0].restore_step(), 10);
  EXPECT_EQ(starts[0].spec().optimizer().learning_rate(), 0.5);
  // Retention (keep 2) leaves it alone while the fork needs it, over a restart, too.
  for (const int64_t step : {20, 30}) {
    ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, step).ok());
  }
  EXPECT_TRUE(cluster.records.contains(ManifestKey(running.id, 10)));
  cluster.Restart();
  cluster.Connect("w1", 3, {Running(running.id, 1, 0, 0), Running(fork, 1, 0, 1)});
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 40).ok());
  EXPECT_TRUE(cluster.records.contains(ManifestKey(running.id, 10)));
  const auto users = UsersOf(cluster.state, cluster.state.jobs.at(running.id), 10);
  EXPECT_EQ(users, std::vector<std::string>{"jobs/" + fork});
  ASSERT_TRUE(cluster.CommitCheckpoint(fork, 1, 20).ok());
  EXPECT_FALSE(cluster.records.contains(ManifestKey(running.id, 10)));
}

TEST(ForkTest, EndedForkGivesItsSourceBackToRetention) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  const std::string fork = cluster.Fork(running.id, 10);
  for (const int64_t step : {20, 30}) {
    ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, step).ok());
  }
  EXPECT_TRUE(cluster.records.contains(ManifestKey(running.id, 10)));
  ASSERT_TRUE(cluster.Cancel(fork).ok());
  EXPECT_FALSE(cluster.records.contains(ManifestKey(running.id, 10)));
}

TEST(ForkTest, RefusesWhatCannotWork) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  EXPECT_EQ(cluster.Fork(running.id, 11), "");
  EXPECT_EQ(DetailsOf(cluster.last_status).reason(), v1::CHECKPOINT_NOT_FOUND);
  EXPECT_EQ(cluster.Fork("nobody"), "");
  EXPECT_EQ(DetailsOf(cluster.last_status).reason(), v1::JOB_NOT_FOUND);
  v1::TrainingSpec spec = TestSpec("x", 1);
  spec.mutable_model()->set_classes(11);
  spec.mutable_train()->set_steps(10);
  EXPECT_EQ(cluster.Fork(running.id, 10, spec), "");
  const v1::ErrorDetails details = DetailsOf(cluster.last_status);
  ASSERT_EQ(details.violations_size(), 2);
  EXPECT_EQ(details.violations(0).field(), "model");
  EXPECT_EQ(details.violations(1).field(), "train.steps");
}

TEST(ForkTest, DamagedSourceEndsTheFork) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 2);
  const std::string fork = cluster.Fork(running.id);
  cluster.Started(running.session, fork, 1, 0);
  cluster.Errored(running.session, fork, 1, 0, absl::StatusCode::kDataLoss, "chunk 3 of shard 0",
                  10);
  EXPECT_EQ(cluster.job(fork).state(), v1::FAILED);
  EXPECT_EQ(cluster.job(fork).reason_code(), v1::REASON_NOT_RETRYABLE);
  EXPECT_EQ(cluster.job(fork).attempts(0).end_cause(), v1::END_CAUSE_CORRUPT_CHECKPOINT);
  EXPECT_TRUE(IsDamaged(cluster.state.jobs.at(running.id), 10));
}

TEST(RetryTest, NewJobGoesOnWhereTheFailedOneEnded) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  EXPECT_EQ(cluster.Retry(running.id), "");
  EXPECT_EQ(DetailsOf(cluster.last_status).reason(), v1::JOB_NOT_ENDED);
  cluster.Errored(running.session, running.id, 1, 0, absl::StatusCode::kNotFound, "no folder");
  ASSERT_EQ(cluster.job(running.id).state(), v1::FAILED);
  cluster.Clear();
  const std::string again = cluster.Retry(running.id);
  ASSERT_FALSE(again.empty()) << cluster.last_status;
  ASSERT_EQ(cluster.starts(running.session).size(), 1u);
  EXPECT_EQ(cluster.starts(running.session)[0].restore_job(), running.id);
  EXPECT_EQ(cluster.starts(running.session)[0].restore_step(), 10);
  EXPECT_EQ(cluster.job(running.id).state(), v1::FAILED) << "an ended job stays as it is";
}

TEST(PriorityTest, MoreImportantJobIsPlacedFirst) {
  ClusterHarness cluster;
  const std::string old = cluster.Submit(TestSpec("old", 1));
  const std::string urgent = cluster.SubmitWithPriority(TestSpec("urgent", 1), 5);
  const std::string raised = cluster.Submit(TestSpec("raised", 1));
  ASSERT_TRUE(cluster.SetPriority(raised, 9).ok());
  cluster.Connect("w1", 1);
  EXPECT_EQ(cluster.job(raised).state(), v1::STARTING);
  EXPECT_EQ(cluster.job(urgent).reason_code(), v1::REASON_WAITS_FOR_SLOTS);
  EXPECT_EQ(cluster.job(old).reason_code(), v1::REASON_WAITS_FOR_TURN);
}

TEST(PriorityTest, LessImportantJobMakesRoomAndWaitsAgain) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 2, 2);
  const std::string equal = cluster.Submit(TestSpec("equal", 1));
  EXPECT_TRUE(cluster.stops(running.session).empty()) << "equals don't preempt each other";
  const std::string urgent = cluster.SubmitWithPriority(TestSpec("urgent", 1), 1);
  const auto stops = cluster.stops(running.session);
  ASSERT_EQ(stops.size(), 1u);
  EXPECT_TRUE(stops[0].save());
  EXPECT_NE(cluster.job(urgent).reason().find("giving up theirs"), std::string::npos);
  ASSERT_TRUE(cluster.CommitCheckpoint(running.id, 1, 15).ok());
  cluster.Stopped(running.session, running.id, 1, 0);
  cluster.Stopped(running.session, running.id, 1, 1);
  EXPECT_EQ(cluster.job(urgent).state(), v1::STARTING);
  EXPECT_EQ(cluster.job(running.id).state(), v1::QUEUED);
  EXPECT_EQ(cluster.job(running.id).attempts(0).end_cause(), v1::END_CAUSE_PREEMPTED);
  EXPECT_EQ(cluster.job(running.id).restarts(), 0);
  EXPECT_EQ(cluster.job(equal).state(), v1::QUEUED) << "younger than the preempted job";
}

TEST(PriorityTest, OnlyAsManyAsNeededAreStoppedAndOnlyWhenItHelps) {
  ClusterHarness cluster;
  const uint64_t session = cluster.Connect("w1", 3);
  const std::string low = cluster.SubmitWithPriority(TestSpec("low", 1), -5);
  const std::string high = cluster.SubmitWithPriority(TestSpec("high", 1), 7);
  const std::string middle = cluster.SubmitWithPriority(TestSpec("middle", 1), 0);
  cluster.Clear();
  const std::string three = cluster.SubmitWithPriority(TestSpec("three", 3), 5);
  EXPECT_TRUE(cluster.stops(session).empty()) << "the most important job stands in the way";
  const std::string one = cluster.SubmitWithPriority(TestSpec("one", 1), 6);
  const auto stops = cluster.stops(session);
  ASSERT_EQ(stops.size(), 1u);
  EXPECT_EQ(stops[0].group().id(), low);
  cluster.Advance(1);
  EXPECT_EQ(cluster.stops(session).size(), 1u) << "slots are on their way already";
  cluster.Stopped(session, low, 1, 0);
  EXPECT_EQ(cluster.job(one).state(), v1::STARTING);
  EXPECT_EQ(cluster.job(three).state(), v1::QUEUED);
}

TEST(ElasticTest, StartsOnWhatIsThereAndGrowsAtTheNextCheckpoint) {
  ClusterHarness cluster;
  const uint64_t s1 = cluster.Connect("w1", 3);
  const std::string id = cluster.Submit(ElasticSpec("a", 1, 4));
  ASSERT_EQ(cluster.starts(s1).size(), 2u) << "powers of two";
  EXPECT_EQ(cluster.starts(s1)[0].world_size(), 2);
  cluster.Started(s1, id, 1, 0);
  cluster.Started(s1, id, 1, 1);
  cluster.Report(s1, id, 1, 5);
  EXPECT_EQ(cluster.job(id).reason(), "training on 2 ranks of 4; grows at a checkpoint");
  ASSERT_TRUE(cluster.CommitCheckpoint(id, 1, 10).ok());
  EXPECT_TRUE(cluster.stops(s1).empty()) << "three slots are not four";
  const uint64_t s2 = cluster.Connect("w2", 1);
  EXPECT_TRUE(cluster.stops(s1).empty()) << "not before a checkpoint";
  ASSERT_TRUE(cluster.CommitCheckpoint(id, 1, 20).ok());
  ASSERT_EQ(cluster.stops(s1).size(), 1u);
  EXPECT_FALSE(cluster.stops(s1)[0].save());
  cluster.Clear();
  cluster.Stopped(s1, id, 1, 0);
  cluster.Stopped(s1, id, 1, 1);
  EXPECT_EQ(cluster.starts(s1).size() + cluster.starts(s2).size(), 4u);
  EXPECT_EQ(cluster.starts(s1)[0].restore_step(), 20);
  EXPECT_EQ(cluster.job(id).attempts(0).end_cause(), v1::END_CAUSE_RESIZED);
  EXPECT_EQ(cluster.job(id).restarts(), 0);
}

TEST(ElasticTest, ShrinksWhenAWorkerIsLost) {
  ClusterHarness cluster;
  const uint64_t s1 = cluster.Connect("w1", 1);
  const uint64_t s2 = cluster.Connect("w2", 1);
  const std::string id = cluster.Submit(ElasticSpec("a", 1, 2));
  cluster.Started(s1, id, 1, 0);
  cluster.Started(s2, id, 1, 1);
  cluster.Report(s1, id, 1, 12);
  ASSERT_TRUE(cluster.CommitCheckpoint(id, 1, 10).ok());
  cluster.Clear();
  cluster.Post(SessionClosed{s2});
  for (int i = 0; i < 11; ++i) {
    cluster.Advance(1000);
    cluster.Post(WorkerHeartbeat{s1});
  }
  cluster.Stopped(s1, id, 1, 0);
  ASSERT_EQ(cluster.starts(s1).size(), 1u);
  EXPECT_EQ(cluster.starts(s1)[0].world_size(), 1);
  EXPECT_EQ(cluster.starts(s1)[0].restore_step(), 10);
}

TEST(ElasticTest, DoesNotTakeSlotsThatOthersWaitFor) {
  ClusterHarness cluster;
  const uint64_t s1 = cluster.Connect("w1", 1);
  const std::string id = cluster.Submit(ElasticSpec("a", 1, 2));
  cluster.Started(s1, id, 1, 0);
  cluster.Report(s1, id, 1, 5);
  cluster.Submit(TestSpec("big", 3));
  cluster.Connect("w2", 1);
  ASSERT_TRUE(cluster.CommitCheckpoint(id, 1, 10).ok());
  EXPECT_TRUE(cluster.stops(s1).empty());
}

TEST(CheckpointControlTest, PinnedAndMilestoneCheckpointsStay) {
  ClusterHarness cluster;
  cluster.Connect("w1", 1);
  v1::TrainingSpec spec = TestSpec("a", 1);
  spec.mutable_checkpoint()->set_keep_every_steps(30);
  const std::string id = cluster.Submit(spec);
  ASSERT_TRUE(cluster.CommitCheckpoint(id, 1, 10).ok());
  ASSERT_TRUE(cluster.Pin(id, 10, true).ok());
  for (const int64_t step : {20, 30, 40, 50, 60}) {
    ASSERT_TRUE(cluster.CommitCheckpoint(id, 1, step).ok());
  }
  const auto steps = [&] {
    std::vector<int64_t> kept;
    for (const auto& [step, epoch] : cluster.state.jobs.at(id).checkpoints) kept.push_back(step);
    return kept;
  };
  EXPECT_EQ(steps(), (std::vector<int64_t>{10, 30, 50, 60}));
  EXPECT_EQ(DetailsOf(cluster.DeleteCheckpoint(id, 10)).reason(), v1::CHECKPOINT_IN_USE);
  EXPECT_EQ(DetailsOf(cluster.DeleteCheckpoint(id, 60)).reason(), v1::CHECKPOINT_IN_USE)
      << "the job would restart from it";
  EXPECT_EQ(DetailsOf(cluster.DeleteCheckpoint(id, 20)).reason(), v1::CHECKPOINT_NOT_FOUND);
  EXPECT_TRUE(cluster.DeleteCheckpoint(id, 50).ok());
  ASSERT_TRUE(cluster.Pin(id, 10, false).ok());
  EXPECT_EQ(steps(), (std::vector<int64_t>{30, 60})) << "an unpinned one counts again";
  ASSERT_TRUE(cluster.CommitCheckpoint(id, 1, 70).ok());
  EXPECT_EQ(steps(), (std::vector<int64_t>{30, 60, 70}));
}

TEST(RetryPolicyTest, BudgetsAndPauses) {
  EXPECT_EQ(PauseMs(PolicyOf(v1::END_CAUSE_SIGNAL), 1, 30'000), 0);
  EXPECT_EQ(PauseMs(PolicyOf(v1::END_CAUSE_SIGNAL), 2, 30'000), 1000);
  EXPECT_EQ(PauseMs(PolicyOf(v1::END_CAUSE_SIGNAL), 60, 30'000), 30'000);
  EXPECT_EQ(PauseMs(PolicyOf(v1::END_CAUSE_OUT_OF_MEMORY), 1, 30'000), 5000);
  EXPECT_GT(Strength(v1::END_CAUSE_SIGNAL), Strength(v1::END_CAUSE_PEER_LOST));
  EXPECT_GT(Strength(v1::END_CAUSE_HANG), Strength(v1::END_CAUSE_ERROR));
}

TEST(RetryPolicyTest, OutOfMemoryIsTriedThreeTimesWithPauses) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  for (int64_t epoch = 1; epoch <= 3; ++epoch) {
    cluster.Errored(running.session, running.id, epoch, 0, absl::StatusCode::kResourceExhausted,
                    "can't allocate 5 GB", 12);
    EXPECT_EQ(cluster.job(running.id).state(), v1::QUEUED);
    cluster.Post(WorkerHeartbeat{running.session});
    cluster.Advance(4000);
    cluster.Post(WorkerHeartbeat{running.session});
    EXPECT_EQ(cluster.job(running.id).state(), v1::QUEUED);
    for (int i = 0; i < 16; ++i) {
      cluster.Advance(1000);
      cluster.Post(WorkerHeartbeat{running.session});
    }
    ASSERT_EQ(cluster.job(running.id).state(), v1::STARTING);
  }
  cluster.Errored(running.session, running.id, 4, 0, absl::StatusCode::kResourceExhausted,
                  "can't allocate 5 GB", 12);
  EXPECT_EQ(cluster.job(running.id).state(), v1::FAILED);
  EXPECT_EQ(cluster.job(running.id).reason_code(), v1::REASON_RETRIES_USED_UP);
  EXPECT_EQ(cluster.job(running.id).next_command(), "diffmoe job retry " + running.id);
}

TEST(RetryPolicyTest, SameBadNumberAtTheSameStepEndsTheJob) {
  ClusterHarness cluster;
  const RunningJob running = StartRunningJob(cluster, 1, 1);
  cluster.Errored(running.session, running.id, 1, 0, absl::StatusCode::kOutOfRange,
                  "loss is not a number", 14);
  EXPECT_EQ(cluster.job(running.id).state(), v1::STARTING);
  EXPECT_EQ(cluster.job(running.id).attempts(0).end_cause(), v1::END_CAUSE_NOT_A_NUMBER);
  cluster.Errored(running.session, running.id, 2, 0, absl::StatusCode::kOutOfRange,
                  "loss is not a number", 14);
  EXPECT_EQ(cluster.job(running.id).reason_code(), v1::REASON_SAME_ERROR_TWICE);
}

}  // namespace
}  // namespace diffmoe::server
