// Real ranks that train under a real worker, against a scripted coordinator: stops with a
// checkpoint, fewer ranks than the job names, another job's checkpoint.
#include "core/spec/spec_file.h"
#include "core/spec/spec_yaml.h"
#include "core/spec/validate.h"
#include "tests/unit/worker/worker_fixture.h"

namespace diffmoe::test {
namespace {

using worker::v1::RankExited;

constexpr absl::Duration kTrainLimit = absl::Seconds(60);

class RankTrainingTest : public WorkerTest {
 protected:
  RankTrainingTest() { rank_binary_ = Binary("diffmoe-rank"); }

  // The smoke job with some fields set otherwise.
  static v1::TrainingSpec Spec(const std::vector<std::string>& overrides) {
    const auto text = ReadSpecFile(DIFFMOE_SOURCE_DIR "/deploy/jobs/fashion-smoke.yaml");
    EXPECT_TRUE(text.ok()) << text.status();
    SpecDocument document = ParseSpecYaml(*text);
    for (const std::string& assignment : overrides) OverrideField(assignment, &document);
    for (const auto& violation : CheckSpecDocument(document)) {
      ADD_FAILURE() << violation.ShortDebugString();
    }
    ApplyDefaults(&document.spec);
    return document.spec;
  }

  void StartRanks(const v1::TrainingSpec& spec, int ranks, int64_t epoch, int64_t restore_step = 0,
                  const std::string& job = "job-1", const std::string& restore_job = "job-1") {
    for (int rank = 0; rank < ranks; ++rank) {
      worker::v1::CoordinatorMessage message = Start("", job, rank, rank, epoch);
      worker::v1::StartRank* start = message.mutable_start_rank();
      *start->mutable_spec() = spec;
      start->set_world_size(ranks);
      start->set_restore_step(restore_step);
      if (restore_step > 0) start->set_restore_job(restore_job);
      ASSERT_TRUE(coordinator_.Send(message));
    }
  }

  // How rank `rank` of that attempt ended.
  RankExited ExitOf(int rank, int64_t epoch, const std::string& job = "job-1") {
    worker::v1::WorkerMessage message;
    EXPECT_TRUE(coordinator_.WaitFor(
        [&](const auto& heard) {
          return heard.has_rank_exited() && heard.rank_exited().rank() == rank &&
                 heard.rank_exited().group().id() == job &&
                 heard.rank_exited().group().epoch() == epoch;
        },
        &message, kTrainLimit))
        << worker_->Err() << ReadFile(absl::StrCat(dir(), "/logs/", job, "-", epoch, "-0.log"));
    return message.rank_exited();
  }

  void ExpectEnd(worker::v1::ExitCause cause, int ranks, int64_t epoch,
                 const std::string& job = "job-1") {
    for (int rank = 0; rank < ranks; ++rank) {
      const RankExited exited = ExitOf(rank, epoch, job);
      EXPECT_EQ(exited.cause(), cause) << exited.DebugString();
    }
  }

  // Every step record, in the order of steps; the newest epoch's word counts.
  std::map<int64_t, std::string> Losses() const {
    std::map<int64_t, std::string> out;
    for (const auto& message : coordinator_.Messages()) {
      for (const auto& record : message.rank_report().records()) {
        out[record.step()] = record.SerializeAsString();
      }
    }
    return out;
  }
};

TEST_F(RankTrainingTest, StopWithACheckpointEndsAllRanksAtOneStepAndLosesNothing) {
  const v1::TrainingSpec spec = Spec({"train.steps=4000", "checkpoint.every_steps=1000000"});
  StartBoth();
  StartRanks(spec, 2, 1);
  ASSERT_TRUE(coordinator_.WaitFor(
      [](const auto& heard) { return heard.rank_report().progress().step() >= 3; }, nullptr,
      kTrainLimit));
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 30'000, 1, /*save=*/true)));
  ExpectEnd(worker::v1::EXIT_CAUSE_STOPPED, 2, 1);
  const std::vector<int64_t> commits = coordinator_.Commits();
  ASSERT_EQ(commits.size(), 1u);
  EXPECT_GE(commits[0], 3);
  // The step that was saved is the last one that was made and reported.
  EXPECT_EQ(ExitOf(0, 1).step(), commits[0]);
  EXPECT_EQ(Losses().rbegin()->first, commits[0]);
}

TEST_F(RankTrainingTest, StepThatWasJustSavedIsNotSavedTwice) {
  const v1::TrainingSpec spec = Spec({"train.steps=100000", "checkpoint.every_steps=1"});
  StartBoth();
  StartRanks(spec, 2, 1);
  ASSERT_TRUE(WaitUntil(kTrainLimit, [&] { return coordinator_.Commits().size() >= 2; }));
  ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 30'000, 1, /*save=*/true)));
  ExpectEnd(worker::v1::EXIT_CAUSE_STOPPED, 2, 1);
  const std::vector<int64_t> commits = coordinator_.Commits();
  EXPECT_EQ(commits.back(), ExitOf(0, 1).step());
  for (size_t i = 1; i < commits.size(); ++i) EXPECT_GT(commits[i], commits[i - 1]);
}

TEST_F(RankTrainingTest, StopsAndOtherNumbersOfRanksChangeNoBit) {
  const v1::TrainingSpec spec = Spec({"train.steps=60", "checkpoint.every_steps=5",
                                      "parallel.ranks=4", "parallel.expert_parallel=4"});
  StartBoth({"--slots", "4"});
  StartRanks(spec, 4, 1);
  ExpectEnd(worker::v1::EXIT_CAUSE_DONE, 4, 1);
  const auto undisturbed = coordinator_.Tensors(60);
  const auto losses = Losses();
  ASSERT_EQ(losses.size(), 60u);

  // The same training on 2, 1 and 4 ranks, each stopped with a checkpoint but the last.
  int64_t step = 0, epoch = 1;
  for (const int ranks : {2, 1, 4}) {
    StartRanks(spec, ranks, ++epoch, step);
    if (ranks == 4) break;
    // A checkpoint of this attempt tells that it trains.
    const size_t commits = coordinator_.Commits().size();
    ASSERT_TRUE(WaitUntil(kTrainLimit, [&] { return coordinator_.Commits().size() > commits; }));
    ASSERT_TRUE(coordinator_.Send(StopGroup("job-1", 30'000, epoch, /*save=*/true)));
    ExpectEnd(worker::v1::EXIT_CAUSE_STOPPED, ranks, epoch);
    ASSERT_GT(coordinator_.Commits().back(), step);
    step = coordinator_.Commits().back();
    ASSERT_LT(step, 60) << "stopped too late to show anything";
  }
  ExpectEnd(worker::v1::EXIT_CAUSE_DONE, 4, epoch);
  EXPECT_EQ(Losses(), losses);
  EXPECT_TRUE(coordinator_.Tensors(60) == undisturbed);
}

// A worker that is told to end drains: its jobs go on elsewhere from where they were.
TEST_F(RankTrainingTest, WorkerThatIsToldToEndSavesFirst) {
  const v1::TrainingSpec spec = Spec({"train.steps=1000000", "checkpoint.every_steps=1000000"});
  StartBoth();
  StartRanks(spec, 2, 1);
  ASSERT_TRUE(coordinator_.WaitFor(
      [](const auto& heard) { return heard.rank_report().progress().step() >= 3; }, nullptr,
      kTrainLimit));
  worker_->Signal(SIGTERM);
  ExpectEnd(worker::v1::EXIT_CAUSE_STOPPED, 2, 1);
  ASSERT_EQ(coordinator_.Commits().size(), 1u);
  EXPECT_EQ(coordinator_.Commits()[0], ExitOf(0, 1).step());
  auto exit = worker_->Wait(kLimit);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->exit_code, 0) << worker_->Err();
}

// The worker names the rank that was stopped before its peer gives up; the peer ends by itself.
TEST_F(RankTrainingTest, StoppedRankIsNamedAndItsPeerEnds) {
  StartBoth();
  StartRanks(Spec({"train.steps=100000"}), 2, 1);
  ASSERT_TRUE(coordinator_.WaitFor(
      [](const auto& heard) { return heard.rank_report().progress().step() >= 3; }, nullptr,
      kTrainLimit));
  const pid_t pid = WaitForPid("job-1", 1);
  const absl::Time stopped = absl::Now();
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  const RankExited culprit = ExitOf(1, 1), peer = ExitOf(0, 1);
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(12));
  EXPECT_EQ(culprit.cause(), worker::v1::EXIT_CAUSE_HANG) << culprit.DebugString();
  EXPECT_GE(culprit.step(), 3);
  EXPECT_NE(culprit.message().find("was in state T (stopped)"), std::string::npos)
      << culprit.message();
  EXPECT_EQ(peer.cause(), worker::v1::EXIT_CAUSE_ERROR) << peer.DebugString();
  EXPECT_EQ(peer.status_code(), static_cast<int>(absl::StatusCode::kUnavailable));
  EXPECT_NE(peer.message().find("rank 1's process has ended"), std::string::npos) << peer.message();
}

TEST_F(RankTrainingTest, ForkGoesOnFromAnotherJobsCheckpoint) {
  StartBoth();
  StartRanks(Spec({"train.steps=6", "checkpoint.every_steps=3"}), 2, 1);
  ExpectEnd(worker::v1::EXIT_CAUSE_DONE, 2, 1);
  const auto original = coordinator_.Tensors(6);
  const v1::TrainingSpec other = Spec({"train.steps=6", "optimizer.learning_rate=0.01"});
  StartRanks(other, 1, 1, 3, "job-2", "job-1");
  ExpectEnd(worker::v1::EXIT_CAUSE_DONE, 1, 1, "job-2");
  EXPECT_FALSE(coordinator_.Tensors(6) == original);
  EXPECT_EQ(ExitOf(0, 1, "job-2").step(), 6);
}

}  // namespace
}  // namespace diffmoe::test
