// A job from its file to its images, through the real programs.
#include <algorithm>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kJobLimit = absl::Seconds(60);

// One cluster with a finished smoke job for all tests that only look.
class FinishedJobTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = new Cluster;
    ASSERT_TRUE(cluster_->Start().ok());
    const auto result = cluster_->Cli({"submit", SmokeJob(), "--follow"}, kJobLimit);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->exit, (ExitState{0, 0})) << result->out << result->err;
    ASSERT_THAT(result->out, HasSubstr("succeeded: 40 steps"));
    id_ = result->out.substr(0, result->out.find('\n'));
  }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }

  // The PNG that `diffmoe sample ARGUMENT...` makes.
  static std::string Sample(const std::vector<std::string>& arguments) {
    const TempDir dir;
    std::vector<std::string> all = {"sample", "--job",         id_, "--steps", "5",
                                    "--out",  dir.Sub("a.png")};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const auto result = cluster_->Cli(all, kJobLimit);
    if (!result.ok() || result->exit != ExitState{0, 0}) {
      ADD_FAILURE() << result.status() << (result.ok() ? result->out + result->err : "");
      return "";
    }
    return ReadFile(dir.Sub("a.png"));
  }

  static Cluster* cluster_;
  static std::string id_;
};

Cluster* FinishedJobTest::cluster_ = nullptr;
std::string FinishedJobTest::id_;

TEST_F(FinishedJobTest, HasEndedWithItsWholeStory) {
  const auto job = cluster_->CliJson({"job", "get", id_});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ((*job)["state"], "SUCCEEDED");
  EXPECT_EQ(Int(*job, "restarts"), 0);
  EXPECT_EQ(Int((*job)["progress"], "step"), 40);
  ASSERT_EQ((*job)["attempts"].size(), 1);
  EXPECT_EQ((*job)["attempts"][0]["placements"].size(), 2);

  const auto events = cluster_->CliJson({"job", "events", id_});
  ASSERT_TRUE(events.ok()) << events.status();
  std::vector<std::string> states;
  for (const auto& event : (*events)["events"]) {
    const std::string state = event["state"];
    if (states.empty() || states.back() != state) states.push_back(state);
  }
  EXPECT_THAT(states, ElementsAre("QUEUED", "STARTING", "RUNNING", "SUCCEEDED"));
}

TEST_F(FinishedJobTest, KeepsARecordOfEveryStep) {
  const auto records = cluster_->CliJson({"metrics", id_});
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ((*records)["records"].size(), 40);
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(Int((*records)["records"][i], "step"), i + 1);
    EXPECT_GT((*records)["records"][i]["loss"].get<double>(), 0);
  }
}

TEST_F(FinishedJobTest, ListsTheNewestCheckpoints) {
  const auto list = cluster_->CliJson({"ckpt", "ls", id_});
  ASSERT_TRUE(list.ok()) << list.status();
  std::vector<int64_t> steps;
  for (const auto& checkpoint : (*list)["checkpoints"]) steps.push_back(Int(checkpoint, "step"));
  // Every 10 steps, the newest 3 kept.
  EXPECT_THAT(steps, ElementsAre(40, 30, 20));
}

TEST_F(FinishedJobTest, CheckpointHoldsThresholdsPerLayerAndExpert) {
  const auto checkpoint = cluster_->CliJson({"ckpt", "get", id_});
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(Int(*checkpoint, "step"), 40);
  EXPECT_EQ(Int(*checkpoint, "world_size"), 2);
  // Two blocks, the second one with four experts.
  ASSERT_EQ((*checkpoint)["thresholds"].size(), 1);
  EXPECT_EQ(Int((*checkpoint)["thresholds"][0], "block"), 1);
  ASSERT_EQ((*checkpoint)["thresholds"][0]["thresholds"].size(), 4);
  for (const double threshold : (*checkpoint)["thresholds"][0]["thresholds"]) {
    EXPECT_GT(threshold, 0);
    EXPECT_LT(threshold, 1);
  }
  const auto has = [&](const std::string& prefix) {
    const auto& tensors = (*checkpoint)["tensors"];
    return std::any_of(tensors.begin(), tensors.end(), [&](const nlohmann::json& tensor) {
      return tensor["name"].get<std::string>().rfind(prefix, 0) == 0;
    });
  };
  EXPECT_TRUE(has("model/") && has("ema/") && has("adam_m/") && has("adam_v/"));

  const auto history = cluster_->CliJson({"ckpt", "get", id_, "--history"});
  ASSERT_TRUE(history.ok()) << history.status();
  EXPECT_GE((*history)["points"].size(), 4);
}

TEST_F(FinishedJobTest, OneSeedMakesOneFile) {
  const std::string first = Sample({"--class", "3", "--n", "4", "--seed", "1"});
  EXPECT_EQ(first.substr(0, 4), "\x89PNG");
  EXPECT_EQ(first, Sample({"--class", "3", "--n", "4", "--seed", "1"}));
  EXPECT_NE(first, Sample({"--class", "3", "--n", "4", "--seed", "2"}));
  EXPECT_NE(first, Sample({"--class", "5", "--n", "4", "--seed", "1"}));
}

TEST_F(FinishedJobTest, EverySamplerOfTheFlowMakesItsOwnImages) {
  const TempDir dir;
  std::set<std::string> pictures;
  for (const std::string sampler : {"euler", "heun", "dopri5", "euler_maruyama"}) {
    std::vector<std::string> arguments = {
        "sample", "--job", id_,     "--class",        "3",         "--n",  "2",
        "--seed", "1",     "--out", dir.Sub(sampler), "--sampler", sampler};
    if (sampler != "dopri5") arguments.insert(arguments.end(), {"--steps", "5"});
    const auto receipt = cluster_->CliJson(arguments, kJobLimit);
    ASSERT_TRUE(receipt.ok()) << receipt.status();
    EXPECT_EQ((*receipt)["sampler"], sampler);
    EXPECT_GE(Int(*receipt, "network_calls"), 10);
    pictures.insert(ReadFile(dir.Sub(sampler)));
  }
  EXPECT_EQ(pictures.size(), 4u);
  const auto refused = cluster_->Cli(
      {"sample", "--job", id_, "--class", "3", "--sampler", "ddim", "--out", dir.Sub("b.png")},
      kJobLimit);
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_THAT(refused->err, HasSubstr("sampler: expected one of euler, heun"));
}

TEST_F(FinishedJobTest, ADdpmJobIsSampledWithItsOwnSamplers) {
  const auto id = SubmitSmoke(
      *cluster_, {"diffusion.process=ddpm", "model.learn_sigma=true", "train.steps=10"});
  ASSERT_TRUE(id.ok()) << id.status();
  const auto job = AwaitState(*cluster_, *id, "SUCCEEDED", kJobLimit);
  ASSERT_TRUE(job.ok()) << job.status();
  const TempDir dir;
  const auto sample = [&](const std::string& sampler) {
    std::vector<std::string> arguments = {
        "sample", "--job", *id,       "--class", "3",     "--n",           "2",
        "--seed", "1",     "--steps", "5",       "--out", dir.Sub("a.png")};
    if (!sampler.empty()) arguments.insert(arguments.end(), {"--sampler", sampler});
    return cluster_->CliJson(arguments, kJobLimit);
  };
  const auto receipt = sample("");
  ASSERT_TRUE(receipt.ok()) << receipt.status();
  EXPECT_EQ((*receipt)["sampler"], "ddim");
  const std::string ddim = ReadFile(dir.Sub("a.png"));
  for (const std::string sampler : {"ancestral", "dpmpp_2m"}) {
    const auto other = sample(sampler);
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_EQ((*other)["sampler"], sampler);
    EXPECT_EQ(Int(*other, "network_calls"), 10);
    EXPECT_NE(ReadFile(dir.Sub("a.png")), ddim) << sampler;
  }
}

TEST_F(FinishedJobTest, EveryFamilyAndModeIsTrainedAndSampled) {
  const std::vector<std::vector<std::string>> jobs = {
      {"model.family=token_choice", "model.shared_experts=2"},
      {"model.family=expert_choice", "model.activation=swiglu"},
      {"model.experts=16", "model.expert_width_ratio=0.25", "model.shared_experts=1",
       "train.unit_samples=2", "train.accumulation=2", "train.recompute=true"},
      {"train.precision=bf16"},
      {"train.deterministic=false", "parallel.expert_parallel=1"}};
  const TempDir dir;
  for (const std::vector<std::string>& settings : jobs) {
    std::vector<std::string> overrides = settings;
    overrides.push_back("train.steps=10");
    const auto id = SubmitSmoke(*cluster_, overrides);
    ASSERT_TRUE(id.ok()) << id.status();
    const auto job = AwaitState(*cluster_, *id, "SUCCEEDED", kJobLimit);
    ASSERT_TRUE(job.ok()) << settings[0] << ": " << job.status();
    EXPECT_GT((*job)["progress"]["layers"][0]["gate_entropy"].get<double>(), 0) << settings[0];
    EXPECT_EQ((*job)["progress"]["layers"][0]["exchange_rows"].size(), 2) << settings[0];
    const auto receipt =
        cluster_->CliJson({"sample", "--job", *id, "--class", "3", "--n", "1", "--seed", "1",
                           "--steps", "3", "--out", dir.Sub("a.png")},
                          kJobLimit);
    ASSERT_TRUE(receipt.ok()) << settings[0] << ": " << receipt.status();
    ASSERT_EQ((*receipt)["capacity"].size(), 1) << settings[0];
  }
}

TEST_F(FinishedJobTest, AnEarlierCheckpointMakesOtherImages) {
  const TempDir dir;
  for (const std::string step : {"20", "40"}) {
    const auto result =
        cluster_->Cli({"sample", "--job", id_ + "@step=" + step, "--class", "1", "--n", "1",
                       "--seed", "1", "--steps", "5", "--out", dir.Sub(step)},
                      kJobLimit);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->exit, (ExitState{0, 0})) << result->err;
  }
  EXPECT_NE(ReadFile(dir.Sub("20")), ReadFile(dir.Sub("40")));
}

TEST_F(FinishedJobTest, ReceiptSaysHowToMakeTheImagesAgain) {
  const TempDir dir;
  const auto receipt =
      cluster_->CliJson({"sample", "--job", id_, "--class", "all", "--n", "2", "--steps", "3",
                         "--guidance", "1.5", "--out", dir.Sub("a.png")},
                        kJobLimit);
  ASSERT_TRUE(receipt.ok()) << receipt.status();
  EXPECT_EQ((*receipt)["checkpoint"], "jobs/" + id_ + "/checkpoints/40");
  EXPECT_EQ(Int(*receipt, "count"), 20);
  EXPECT_EQ(Int(*receipt, "steps"), 3);
  EXPECT_EQ((*receipt)["guidance"], 1.5);
  EXPECT_NE((*receipt)["seed"], "");
  ASSERT_EQ((*receipt)["capacity"].size(), 1);
  EXPECT_GE((*receipt)["capacity"][0].get<double>(), 0);
  EXPECT_LE((*receipt)["capacity"][0].get<double>(), 4);
  EXPECT_NE((*receipt)["thresholds_hash"], "");
}

TEST_F(FinishedJobTest, ReportWritesPicturesAndNumbers) {
  const TempDir dir;
  const auto result =
      cluster_->Cli({"report", id_, "--out", dir.path(), "--n", "2", "--steps", "5"}, kJobLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->exit, (ExitState{0, 0})) << result->err;
  EXPECT_THAT(result->out, HasSubstr("energy distance"));
  EXPECT_EQ(ReadFile(dir.Sub("samples.png")).substr(0, 4), "\x89PNG");
  EXPECT_EQ(ReadFile(dir.Sub("loss.png")).substr(0, 4), "\x89PNG");
  const std::string page = ReadFile(dir.Sub("report.html"));
  for (const char* part : {"<figcaption>Loss</figcaption>", "Capacity of each class against t",
                           "Thresholds per layer", "Samples at step 40", "checkpoint of step"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  const auto report = nlohmann::json::parse(ReadFile(dir.Sub("report.json")), nullptr, false);
  ASSERT_FALSE(report.is_discarded());
  EXPECT_EQ(report["steps"], 40);
  EXPECT_EQ(report["samples"]["count"], 20);
  EXPECT_EQ(report["layers"].size(), 1);
  EXPECT_EQ(report["layers"][0]["thresholds"].size(), 4);
  // Forty steps of a tiny model: far from the real images, whose floor is near zero.
  EXPECT_GT(report["quality"]["energy_distance"].get<double>(),
            10 * std::abs(report["quality"]["energy_distance_floor"].get<double>()));
}

TEST(RunningJobTest, IsSampledWhileItTrainsAndThenCancelled) {
  Cluster cluster;
  ASSERT_TRUE(cluster.Start().ok());
  const auto id = SubmitSmoke(cluster, {"train.steps=1000000"});
  ASSERT_TRUE(id.ok()) << id.status();
  auto job =
      AwaitJob(cluster, *id, kJobLimit, [](const nlohmann::json& j) { return RunsPast(j, 10); });
  ASSERT_TRUE(job.ok()) << job.status();

  const auto receipt = cluster.CliJson({"sample", "--job", *id, "--class", "0", "--n", "2",
                                        "--steps", "5", "--out", cluster.dir() + "/a.png"},
                                       kJobLimit);
  ASSERT_TRUE(receipt.ok()) << receipt.status();
  const int64_t before = Int((*job)["progress"], "step");
  job = AwaitJob(cluster, *id, kJobLimit, [&](const nlohmann::json& j) {
    return RunsPast(j, 10) && Int(j["progress"], "step") > before;
  });
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(Int(*job, "restarts"), 0);

  const auto watcher = cluster.StartCli({"watch", *id});
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  const auto cancel = cluster.Cli({"job", "cancel", *id});
  ASSERT_TRUE(cancel.ok()) << cancel.status();
  EXPECT_EQ(cancel->exit, (ExitState{0, 0})) << cancel->err;
  job = AwaitState(cluster, *id, "CANCELLED", kJobLimit);
  ASSERT_TRUE(job.ok()) << job.status();
  const auto end = (*watcher)->Wait(kJobLimit);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(*end, (ExitState{11, 0}));
  // Its checkpoints stay.
  const auto list = cluster.CliJson({"ckpt", "ls", *id});
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_FALSE((*list)["checkpoints"].empty());
}

}  // namespace
}  // namespace diffmoe::test
