// The number of ranks is not a hyperparameter: 20 training steps on 1, 2 and 4 ranks give the same
// bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/base/philox.h"
#include "core/train/train_engine.h"
#include "tests/multiprocess/rank_threads.h"

namespace diffmoe {
namespace {

TrainingConfig SmallConfig(Family family) {
  TrainingConfig config;
  config.model.family = family;
  config.model.image_size = 16;
  config.model.channels = 1;
  config.model.patch_size = 4;
  config.model.width = 64;
  config.model.depth = 4;
  config.model.heads = 2;
  config.model.experts = 8;
  config.global_batch = 16;
  config.unit_samples = 4;
  config.steps = 20;
  config.seed = 7;
  config.optimizer.learning_rate = 1e-3;
  config.optimizer.clip_norm = 1;
  config.optimizer.warmup_steps = 5;
  config.optimizer.final_ratio = 0.1;
  return config;
}

// A data set that is a function: blobs whose place depends on the index.
int SyntheticImage(uint64_t index, std::span<float> out) {
  const int label = static_cast<int>(index % 10);
  RandomStream(99, RandomUse::kNoise, index, 0).Normal(out);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = std::tanh(0.2f * out[i] +
                       std::sin(0.1f * static_cast<float>(i) * static_cast<float>(label + 1)));
  }
  return label;
}

struct TrainingRun {
  std::vector<double> losses, predictor_losses, grad_norms;
  // [step][layer][expert] -> ids, whichever rank owned the expert
  std::vector<std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>>> selections;
  std::map<std::string, std::vector<float>> state;  // whole logical tensors
  std::vector<std::vector<float>> thresholds;
};

TrainingRun Train(const TrainingConfig& config, int world_size) {
  TrainingRun run;
  run.selections.resize(static_cast<size_t>(config.steps));
  std::mutex mutex;
  RunRanks(world_size, [&](Collectives& collectives) {
    TrainEngine engine(config, collectives);
    engine.Initialize();
    for (int64_t step = 0; step < config.steps; ++step) {
      const Batch batch =
          MakeBatch(config, step, collectives.rank(), world_size, 1000, SyntheticImage);
      const StepFigures figures = engine.Step(step, batch, 0);
      std::lock_guard<std::mutex> lock(mutex);
      if (collectives.rank() == 0) {
        run.losses.push_back(figures.loss);
        run.predictor_losses.push_back(figures.predictor_loss);
        run.grad_norms.push_back(figures.grad_norm);
      }
      for (int64_t layer = 0; layer < engine.moe_layer_count(); ++layer) {
        const auto& selection = engine.moe_layer(layer).last_selection();
        for (size_t e = 0; e < selection.size(); ++e) {
          run.selections[static_cast<size_t>(step)][{
              layer, engine.layout().first_expert() + static_cast<int64_t>(e)}] = selection[e];
        }
      }
    }
    std::lock_guard<std::mutex> lock(mutex);
    if (collectives.rank() == 0) run.thresholds = engine.Thresholds();
    for (const StateRun& piece : engine.OwnedState()) {
      std::vector<float>& whole = run.state[piece.name];
      int64_t elements = 1;
      for (int64_t size : piece.shape) elements *= size;
      whole.resize(static_cast<size_t>(elements), std::nanf(""));
      std::memcpy(whole.data() + piece.first_element, piece.data,
                  static_cast<size_t>(piece.elements) * sizeof(float));
    }
  });
  return run;
}

class LayoutInvariance : public ::testing::TestWithParam<Family> {};

TEST_P(LayoutInvariance, OneTwoAndFourRanksGiveTheSameBits) {
  const TrainingConfig config = SmallConfig(GetParam());
  const TrainingRun one = Train(config, 1);
  ASSERT_EQ(one.losses.size(), 20u);
  EXPECT_LT(one.losses.back(), one.losses.front());
  for (int world_size : {2, 4}) {
    const TrainingRun many = Train(config, world_size);
    EXPECT_EQ(many.losses, one.losses) << world_size << " ranks";
    EXPECT_EQ(many.predictor_losses, one.predictor_losses) << world_size << " ranks";
    EXPECT_EQ(many.grad_norms, one.grad_norms) << world_size << " ranks";
    EXPECT_EQ(many.selections, one.selections) << world_size << " ranks";
    EXPECT_EQ(many.thresholds, one.thresholds) << world_size << " ranks";
    ASSERT_EQ(many.state.size(), one.state.size());
    for (const auto& [name, values] : one.state) {
      const std::vector<float>& other = many.state.at(name);
      ASSERT_EQ(other.size(), values.size()) << name;
      EXPECT_EQ(std::memcmp(other.data(), values.data(), values.size() * sizeof(float)), 0)
          << name << " differs on " << world_size << " ranks";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, LayoutInvariance,
                         ::testing::Values(Family::kDiffMoe, Family::kDense),
                         [](const auto& family) {
                           return family.param == Family::kDense ? "Dense" : "DiffMoe";
                         });

}  // namespace
}  // namespace diffmoe
