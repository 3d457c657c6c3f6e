// Processes that are killed in the middle of a job.
#include <signal.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kJobLimit = absl::Seconds(90);
// From the death of a rank to the next attempt's first step.
constexpr absl::Duration kRestartLimit = absl::Seconds(10);

class RecoveryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = cluster_.Start();
    ASSERT_TRUE(status.ok()) << status;
  }

  // A job in the middle of its training, with a checkpoint behind it.
  void StartJob(int64_t steps) {
    const auto id = SubmitSmoke(
        cluster_, {"train.steps=" + std::to_string(steps), "checkpoint.every_steps=20"});
    ASSERT_TRUE(id.ok()) << id.status();
    id_ = *id;
    const auto job =
        AwaitJob(cluster_, id_, kJobLimit, [](const nlohmann::json& j) { return RunsPast(j, 20); });
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *job;
  }

  void ExpectSuccess(int64_t steps) {
    const auto job = AwaitState(cluster_, id_, "SUCCEEDED", kJobLimit);
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ(Int((*job)["progress"], "step"), steps);
    EXPECT_EQ(Int(*job, "latest_checkpoint_step"), steps);
    job_ = *job;
  }

  Cluster cluster_;
  std::string id_;
  nlohmann::json job_;
};

TEST_F(RecoveryTest, KilledRankIsReplacedAndTheResultReached) {
  ASSERT_NO_FATAL_FAILURE(StartJob(400));
  const auto ranks = ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_, "--rank 1"});
  ASSERT_EQ(ranks.size(), 1);
  ASSERT_EQ(kill(ranks[0], SIGKILL), 0);
  const absl::Time killed = absl::Now();
  const auto job = AwaitJob(cluster_, id_, kJobLimit, [](const nlohmann::json& j) {
    return Int(j, "epoch") > 1 && j["state"] == "RUNNING";
  });
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_LT(absl::Now() - killed, kRestartLimit);
  // From a checkpoint, not from the beginning; and the history says what happened.
  const auto& attempts = (*job)["attempts"];
  ASSERT_GE(attempts.size(), 2);
  EXPECT_GE(Int(attempts[1], "restored_step"), 20);
  EXPECT_THAT(attempts[0]["end_reason"].get<std::string>(), HasSubstr("rank 1"));
  EXPECT_THAT(attempts[0]["end_reason"].get<std::string>(), HasSubstr("signal 9"));
  ExpectSuccess(400);
  EXPECT_EQ(Int(job_, "restarts"), 1);
}

TEST_F(RecoveryTest, KilledCoordinatorComesBackWithEverything) {
  ASSERT_NO_FATAL_FAILURE(StartJob(600));
  const auto before = cluster_.CliJson(
      {"ckpt", "get", id_, Int(job_, "latest_checkpoint_step") > 0 ? "latest" : "0"});
  ASSERT_TRUE(before.ok()) << before.status();
  const auto ranks = ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_});
  ASSERT_EQ(ranks.size(), 2);

  cluster_.KillCoordinator();
  const absl::Status restarted = cluster_.StartCoordinator();
  ASSERT_TRUE(restarted.ok()) << restarted;

  const auto list = cluster_.CliJson({"ckpt", "ls", id_});
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_FALSE((*list)["checkpoints"].empty());
  // The same ranks go on: they were never restarted.
  const auto job = AwaitJob(cluster_, id_, kJobLimit, [&](const nlohmann::json& j) {
    return j["state"] == "RUNNING" && j.contains("progress") &&
           Int(j["progress"], "step") > Int(*before, "step");
  });
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_}), ranks);
  ExpectSuccess(600);
  EXPECT_EQ(Int(job_, "restarts"), 0);

  const auto history = cluster_.CliJson({"ckpt", "get", id_, "--history", "--points", "1000"});
  ASSERT_TRUE(history.ok()) << history.status();
  // Thresholds from before the crash and from after it.
  int64_t first = -1, last = -1;
  for (const auto& point : (*history)["points"]) {
    if (first < 0) first = Int(point, "step");
    last = Int(point, "step");
  }
  EXPECT_LE(first, Int(*before, "step"));
  EXPECT_EQ(last, 600);
}

TEST_F(RecoveryTest, KilledWorkerTakesItsRanksWithItAndTheNextOneGoesOn) {
  ASSERT_NO_FATAL_FAILURE(StartJob(400));
  const auto ranks = ChildrenOf(cluster_.worker()->pid(), {"diffmoe-rank", id_});
  ASSERT_EQ(ranks.size(), 2);
  cluster_.KillWorker();
  EXPECT_TRUE(WaitUntil(kRestartLimit, [&] {
    return kill(ranks[0], 0) != 0 && kill(ranks[1], 0) != 0;
  })) << "ranks outlive their worker";
  const absl::Status restarted = cluster_.StartWorker();
  ASSERT_TRUE(restarted.ok()) << restarted;
  ExpectSuccess(400);
}

}  // namespace
}  // namespace diffmoe::test
