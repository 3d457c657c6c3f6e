#include "worker/rank/initial_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/model/weights_file.h"
#include "tests/multiprocess/rank_threads.h"
#include "tests/multiprocess/training_run.h"
#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

class InitialWeightsTest : public ::testing::Test {
 protected:
  // Every element differs from the others of its tensor, and tensors from one another.
  void Write(const ModelConfig& model) {
    int64_t layers = 0;
    for (int64_t block = 0; block < model.depth; ++block) layers += model.IsMoeBlock(block) ? 1 : 0;
    thresholds_.clear();
    for (int64_t layer = 0; layer < layers; ++layer) {
      std::vector<float>& row = thresholds_.emplace_back();
      if (model.family != Family::kDiffMoe) continue;
      for (int64_t e = 0; e < model.experts; ++e) {
        row.push_back(0.1f + 0.01f * static_cast<float>(8 * layer + e));
      }
    }
    auto writer = WeightsWriter::Create(path_, model, thresholds_, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const StateTensor& tensor : (*writer)->parameters()) {
      std::vector<float>& data = values_[tensor.name];
      data.clear();
      for (int64_t i = 0; i < tensor.elements(); ++i) {
        data.push_back(static_cast<float>(values_.size()) + 1e-5f * static_cast<float>(i));
      }
      ASSERT_TRUE(
          (*writer)->Append({reinterpret_cast<const char*>(data.data()), 4 * data.size()}).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.Sub("w.safetensors");
  std::map<std::string, std::vector<float>> values_;
  std::vector<std::vector<float>> thresholds_;
};

TEST_F(InitialWeightsTest, EveryRankTakesWhatItHolds) {
  for (const Family family : {Family::kDense, Family::kTokenChoice, Family::kDiffMoe}) {
    for (const int ranks : {1, 2}) {
      TrainingConfig config = SmallConfig(family);
      config.ranks = ranks;
      config.expert_parallel = ranks;
      values_.clear();
      Write(config.model);
      RunRanks(ranks, [&](Collectives& collectives) {
        TrainEngine engine(config, collectives);
        const absl::Status status = LoadInitialWeights(path_, config.model, engine);
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_EQ(engine.Thresholds(), thresholds_);
        EXPECT_TRUE(engine.thresholds_initialized());
        size_t weights = 0, averages = 0;
        for (const StateRun& run : engine.NeededState()) {
          const size_t slash = run.name.find('/');
          const std::string kind = run.name.substr(0, slash);
          if (kind != "model" && kind != "ema") continue;
          ++(kind == "model" ? weights : averages);
          const std::vector<float>& want = values_.at(run.name.substr(slash + 1));
          EXPECT_TRUE(
              std::equal(run.data, run.data + run.elements, want.begin() + run.first_element))
              << run.name;
        }
        if (ranks == 1) {
          EXPECT_EQ(weights, values_.size());
        }
        EXPECT_GT(averages, 0u);
      });
    }
  }
}

TEST_F(InitialWeightsTest, ErrorsNameFieldFileAndTensor) {
  TrainingConfig config = SmallConfig(Family::kDiffMoe);
  Write(config.model);
  config.model.classes += 1;
  RunRanks(1, [&](Collectives& collectives) {
    TrainEngine engine(config, collectives);
    const absl::Status status = LoadInitialWeights(path_, config.model, engine);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StartsWith(
        status.message(), absl::StrCat("train.initial_weights: ", path_,
                                       ": not the weights of this model: tensor "
                                       "'y_embedder.embedding_table.weight': expected F32 [")))
        << status;
    EXPECT_EQ(LoadInitialWeights(dir_.Sub("none"), config.model, engine).code(),
              absl::StatusCode::kNotFound);
  });
}

}  // namespace
}  // namespace diffmoe
