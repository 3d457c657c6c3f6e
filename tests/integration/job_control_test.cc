// Pause and resume, preemption, forks, retries and growth through the command line, on real ranks.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kJobLimit = absl::Seconds(120);

class JobControlTest : public ::testing::Test {
 protected:
  void StartCluster(int slots) {
    cluster_.set_slots(slots);
    const absl::Status status = cluster_.Start();
    ASSERT_TRUE(status.ok()) << status;
  }

  // A job that trains and has a checkpoint behind it.
  void StartJob(const std::vector<std::string>& overrides, std::string* id) {
    const auto submitted = SubmitSmoke(cluster_, overrides);
    ASSERT_TRUE(submitted.ok()) << submitted.status();
    *id = *submitted;
    const auto job =
        AwaitJob(cluster_, *id, kJobLimit, [](const nlohmann::json& j) { return RunsPast(j, 20); });
    ASSERT_TRUE(job.ok()) << job.status();
  }

  nlohmann::json Await(const std::string& id, const std::string& state) {
    const auto job = AwaitState(cluster_, id, state, kJobLimit);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : nlohmann::json::object();
  }

  std::string Run(const std::vector<std::string>& arguments) {
    const auto result = cluster_.Cli(arguments);
    if (!result.ok()) return result.status().ToString();
    EXPECT_EQ(result->exit, (ExitState{0, 0})) << result->err;
    std::string out = result->out;
    while (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
  }

  static std::string EndCause(const nlohmann::json& job, size_t attempt) {
    return job["attempts"][attempt].value("end_cause", "");
  }

  Cluster cluster_;
};

const std::vector<std::string> kLongJob = {"train.steps=600", "checkpoint.every_steps=20"};

TEST_F(JobControlTest, PausedJobHoldsNoSlotsAndLosesNoStep) {
  ASSERT_NO_FATAL_FAILURE(StartCluster(2));
  std::string id;
  ASSERT_NO_FATAL_FAILURE(StartJob(kLongJob, &id));
  EXPECT_THAT(Run({"job", "pause", id}), HasSubstr("PAUSING"));
  const nlohmann::json paused = Await(id, "PAUSED");
  const int64_t step = Int(paused, "latest_checkpoint_step");
  EXPECT_GE(step, 20);
  EXPECT_THAT(Run({"job", "why", id}), HasSubstr("Next: diffmoe job resume " + id));
  const auto workers = cluster_.CliJson({"workers"});
  ASSERT_TRUE(workers.ok()) << workers.status();
  for (const auto& slot : (*workers)["workers"][0]["slots"]) {
    EXPECT_EQ(slot.value("used_by", ""), "");
  }
  Run({"job", "resume", id});
  const nlohmann::json done = Await(id, "SUCCEEDED");
  EXPECT_EQ(Int(done["attempts"][1], "restored_step"), step);
  // Saved where it stopped: nothing is trained twice.
  EXPECT_EQ(Int(done["attempts"][0], "last_step"), step);
  EXPECT_EQ(EndCause(done, 0), "END_CAUSE_USER");
  EXPECT_EQ(Int(done, "restarts"), 0);
}

TEST_F(JobControlTest, MoreImportantJobPreemptsAndTheOtherGoesOn) {
  ASSERT_NO_FATAL_FAILURE(StartCluster(2));
  std::string low;
  ASSERT_NO_FATAL_FAILURE(StartJob(kLongJob, &low));
  const std::string high = Run({"submit", SmokeJob(), "--priority", "5", "--label", "kind=urgent"});
  Await(high, "SUCCEEDED");
  const nlohmann::json done = Await(low, "SUCCEEDED");
  EXPECT_EQ(EndCause(done, 0), "END_CAUSE_PREEMPTED");
  EXPECT_EQ(Int(done["attempts"][1], "restored_step"), Int(done["attempts"][0], "last_step"));
  const auto found = cluster_.CliJson({"jobs", "--label", "kind=urgent"});
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ((*found)["jobs"].size(), 1);
  EXPECT_EQ((*found)["jobs"][0]["id"], high);
}

TEST_F(JobControlTest, ForkTrainsOnFromTheOthersCheckpoint) {
  ASSERT_NO_FATAL_FAILURE(StartCluster(2));
  std::string id;
  ASSERT_NO_FATAL_FAILURE(StartJob({"train.steps=60", "checkpoint.every_steps=20"}, &id));
  Await(id, "SUCCEEDED");
  const std::string fork =
      Run({"job", "fork", id, "40", "--set", "train.steps=80", "--set", "train.seed=7"});
  const nlohmann::json done = Await(fork, "SUCCEEDED");
  EXPECT_EQ(done["forked_from"], "jobs/" + id + "/checkpoints/40");
  EXPECT_EQ(Int(done["attempts"][0], "restored_step"), 40);
  EXPECT_EQ(Int(done["progress"], "step"), 80);
  const auto other_model = cluster_.Cli({"job", "fork", id, "--set", "model.width=128"});
  ASSERT_TRUE(other_model.ok());
  EXPECT_EQ(other_model->exit, (ExitState{3, 0}));
  EXPECT_THAT(other_model->err, HasSubstr("checkpoint holds another network"));
}

TEST_F(JobControlTest, CancelledJobIsRetriedFromItsCheckpoint) {
  ASSERT_NO_FATAL_FAILURE(StartCluster(2));
  std::string id;
  ASSERT_NO_FATAL_FAILURE(StartJob(kLongJob, &id));
  Run({"job", "cancel", id});
  const nlohmann::json cancelled = Await(id, "CANCELLED");
  const auto retried = cluster_.CliJson({"job", "retry", id});
  ASSERT_TRUE(retried.ok()) << retried.status();
  const nlohmann::json done = Await((*retried)["id"], "SUCCEEDED");
  EXPECT_EQ(Int(done["attempts"][0], "restored_step"), Int(cancelled, "latest_checkpoint_step"));
  EXPECT_EQ(Await(id, "CANCELLED")["state"], "CANCELLED") << "an ended job stays as it is";
}

TEST_F(JobControlTest, ElasticJobGrowsWhenSlotsComeBack) {
  ASSERT_NO_FATAL_FAILURE(StartCluster(1));
  std::string id;
  ASSERT_NO_FATAL_FAILURE(
      StartJob({"train.steps=4000", "checkpoint.every_steps=20", "parallel.min_ranks=1"}, &id));
  EXPECT_EQ(LookAtJob(cluster_, id).attempts(0).placements_size(), 1);
  cluster_.KillWorker();
  cluster_.set_slots(2);
  ASSERT_TRUE(cluster_.StartWorker().ok());
  const auto grown = AwaitJob(cluster_, id, kJobLimit, [](const nlohmann::json& job) {
    return job["state"] == "RUNNING" && job["attempts"].back()["placements"].size() == 2;
  });
  ASSERT_TRUE(grown.ok()) << grown.status();
  EXPECT_GE(Int((*grown)["attempts"].back(), "restored_step"), 20);
  Run({"job", "cancel", id});
  Await(id, "CANCELLED");
}

TEST_F(JobControlTest, CheckpointsArePinnedVerifiedAndDeleted) {
  ASSERT_NO_FATAL_FAILURE(StartCluster(2));
  std::string id;
  ASSERT_NO_FATAL_FAILURE(
      StartJob({"train.steps=80", "checkpoint.every_steps=20", "checkpoint.keep=2"}, &id));
  const auto job = LookAtJob(cluster_, id);
  const std::string step = std::to_string(job.latest_checkpoint_step());
  Run({"ckpt", "pin", id, step});
  Await(id, "SUCCEEDED");
  EXPECT_THAT(Run({"ckpt", "ls", id}), HasSubstr("pinned"));
  EXPECT_THAT(Run({"ckpt", "verify", id, step}), HasSubstr("is good"));
  const auto refused = cluster_.Cli({"ckpt", "rm", id, step});
  ASSERT_TRUE(refused.ok());
  EXPECT_EQ(refused->exit, (ExitState{6, 0}));
  EXPECT_THAT(refused->err, HasSubstr("needed by a pin"));
  Run({"ckpt", "unpin", id, step});
  Run({"ckpt", "rm", id, "80"});
  const auto left = cluster_.CliJson({"ckpt", "ls", id});
  ASSERT_TRUE(left.ok()) << left.status();
  for (const auto& checkpoint : (*left)["checkpoints"]) EXPECT_NE(Int(checkpoint, "step"), 80);
}

}  // namespace
}  // namespace diffmoe::test
