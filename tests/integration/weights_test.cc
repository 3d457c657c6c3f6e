// Weights out of a cluster and into another job.
#include <cmath>
#include <map>

#include "core/model/weights_file.h"
#include "core/spec/spec_convert.h"
#include "core/spec/spec_yaml.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kJobLimit = absl::Seconds(60);

class WeightsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = new Cluster;
    ASSERT_TRUE(cluster_->Start().ok());
  }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }

  // Runs the smoke job with overrides to its end; returns its id.
  static std::string Run(const std::vector<std::string>& overrides,
                         const std::string& end = "SUCCEEDED") {
    const auto id = SubmitSmoke(*cluster_, overrides);
    if (!id.ok()) {
      ADD_FAILURE() << id.status();
      return "";
    }
    const auto job = AwaitState(*cluster_, *id, end, kJobLimit);
    EXPECT_TRUE(job.ok()) << job.status();
    return *id;
  }

  static double FirstLoss(const std::string& id) {
    const auto records = cluster_->CliJson({"metrics", id});
    EXPECT_TRUE(records.ok()) << records.status();
    return records.ok() ? (*records)["records"][0]["loss"].get<double>() : NAN;
  }

  std::string Export(const std::string& id, const std::string& name, const std::string& weights) {
    const std::string path = dir_.Sub(name);
    const auto result = cluster_->Cli({"ckpt", "export", id, "--weights", weights, "--out", path});
    EXPECT_TRUE(result.ok() && result->exit == (ExitState{0, 0}))
        << result.status() << (result.ok() ? result->err : "");
    return path;
  }

  static ModelConfig Model() {
    return ToTrainingConfig(ParseSpecYaml(ReadFile(SmokeJob())).spec).model;
  }

  // Bytes of every tensor of an exported file.
  static std::map<std::string, std::string> Tensors(const std::string& path) {
    std::map<std::string, std::string> tensors;
    EXPECT_TRUE(WeightsReader::Open(path, Model()).ok());
    const auto file = SafetensorsReader::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    if (!file.ok()) return {};
    for (const SafetensorsInfo& info : (*file)->tensors()) {
      tensors[info.name] = *(*file)->Read(info.name);
    }
    return tensors;
  }

  static Cluster* cluster_;
  TempDir dir_;
};

Cluster* WeightsTest::cluster_ = nullptr;

TEST_F(WeightsTest, ExportedWeightsStartAnotherJob) {
  const std::string trained = Run({});
  const std::string path = Export(trained, "trained.safetensors", "model");
  EXPECT_EQ(ReadFile(path), ReadFile(Export(trained, "again.safetensors", "model")));
  EXPECT_NE(ReadFile(path), ReadFile(Export(trained, "ema.safetensors", "ema")));

  // One step that moves no weight: what was loaded can be read back.
  const std::vector<std::string> overrides = {"train.initial_weights=" + path, "train.steps=1",
                                              "optimizer.learning_rate=1e-300"};
  const std::string second = Run(overrides);
  std::map<std::string, std::string> before = Tensors(path);
  std::map<std::string, std::string> after = Tensors(Export(second, "second.safetensors", "model"));
  const std::string threshold = "blocks.1.mlp.expert_threshold";
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, bytes] : before) {
    EXPECT_TRUE(name == threshold || after[name] == bytes) << name;
  }
  // Thresholds go on from the file's, by one step of the average.
  const auto* old_values = reinterpret_cast<const float*>(before[threshold].data());
  const auto* new_values = reinterpret_cast<const float*>(after[threshold].data());
  for (int64_t e = 0; e < Model().experts; ++e) {
    EXPECT_NE(old_values[e], new_values[e]);
    EXPECT_NEAR(old_values[e], new_values[e], 0.05);
  }

  // The trained weights are better at the first batch than fresh ones, on any number of ranks.
  EXPECT_LT(FirstLoss(second), FirstLoss(trained));
  std::vector<std::string> one_rank = overrides;
  one_rank.push_back("parallel.ranks=1");
  EXPECT_EQ(FirstLoss(Run(one_rank)), FirstLoss(second));
}

TEST_F(WeightsTest, OtherFamiliesTravelToo) {
  for (const std::string family : {"token_choice", "expert_choice"}) {
    const std::vector<std::string> model = {"model.family=" + family, "model.activation=swiglu",
                                            "model.shared_experts=2", "train.steps=2"};
    const std::string path = Export(Run(model), family + ".safetensors", "model");
    std::vector<std::string> again = model;
    again.insert(again.end(), {"train.initial_weights=" + path, "optimizer.learning_rate=1e-300"});
    // Nothing but weights is in these files, so nothing may have changed.
    EXPECT_TRUE(ReadFile(path) == ReadFile(Export(Run(again), "again.safetensors", "model")))
        << family;
  }
}

TEST_F(WeightsTest, WeightsOfAnotherModelEndTheJobWithAllFaults) {
  const std::string path = Export(Run({"train.steps=1"}), "w.safetensors", "ema");
  const std::string id = Run(
      {"train.initial_weights=" + path, "model.classes=11", "parallel.max_restarts=0"}, "FAILED");
  const auto job = cluster_->CliJson({"job", "get", id});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_THAT(job->dump(),
              AllOf(HasSubstr("train.initial_weights: " + path),
                    HasSubstr("tensor 'y_embedder.embedding_table.weight': expected F32 [12, 64], "
                              "got F32 [11, 64]")));
}

TEST_F(WeightsTest, ExportSaysWhatIsMissing) {
  const auto result = cluster_->Cli({"ckpt", "export", "nobody-1", "--out", dir_.Sub("w")});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit, (ExitState{4, 0})) << result->err;
  EXPECT_THAT(result->err, HasSubstr("nobody-1"));
}

}  // namespace
}  // namespace diffmoe::test
