// The layout is not a hyperparameter: training on 1, 2 and 4 ranks with any expert-parallel degree
// gives the same bits.
#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/multiprocess/training_run.h"

namespace diffmoe {
namespace {

void ExpectSameBits(const TrainingRun& run, const TrainingRun& one, const std::string& where) {
  EXPECT_EQ(run.losses, one.losses) << where;
  EXPECT_EQ(run.router_losses, one.router_losses) << where;
  EXPECT_EQ(run.grad_norms, one.grad_norms) << where;
  EXPECT_TRUE(run.selections == one.selections) << where << ": other tokens were selected";
  EXPECT_EQ(run.thresholds, one.thresholds) << where;
  ASSERT_EQ(run.state.size(), one.state.size()) << where;
  for (const auto& [name, values] : one.state) {
    const std::vector<float>& other = run.state.at(name);
    ASSERT_EQ(other.size(), values.size()) << name;
    EXPECT_EQ(std::memcmp(other.data(), values.data(), values.size() * sizeof(float)), 0)
        << where << ": " << name << " differs";
  }
  EXPECT_EQ(run.Sha256(), one.Sha256()) << where;
}

void CheckLayouts(const TrainingConfig& config, const std::vector<Layout>& layouts) {
  const TrainingRun one = Train(config, {1, 1});
  ASSERT_EQ(one.losses.size(), static_cast<size_t>(config.steps));
  EXPECT_LT(one.losses.back(), one.losses.front());
  for (const Layout& layout : layouts) {
    ExpectSameBits(Train(config, layout), one,
                   absl::StrCat(layout.ranks, " ranks, expert parallel ", layout.expert_parallel));
  }
}

const std::vector<Layout> kAllLayouts{{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};

TEST(LayoutInvariance, DiffMoe) {
  TrainingConfig config = SmallConfig(Family::kDiffMoe);
  config.steps = 10;
  CheckLayouts(config, kAllLayouts);
}

TEST(LayoutInvariance, ExpertChoice) {
  TrainingConfig config = SmallConfig(Family::kExpertChoice);
  config.steps = 10;
  CheckLayouts(config, {{2, 2}, {4, 2}});
}

TEST(LayoutInvariance, TokenChoice) {
  TrainingConfig config = SmallConfig(Family::kTokenChoice);
  config.steps = 10;
  CheckLayouts(config, {{2, 2}, {4, 2}});
}

TEST(LayoutInvariance, Dense) { CheckLayouts(SmallConfig(Family::kDense), {{2, 1}, {4, 1}}); }

// State saved under any layout goes on under any other, as if nothing had happened.
TEST(LayoutInvariance, SavedUnderOneLayoutLoadedUnderAnother) {
  const std::vector<Layout> layouts{{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};
  TrainingConfig config = SmallConfig(Family::kDiffMoe);
  config.steps = 8;
  const TrainingRun undisturbed = Train(config, {1, 1});
  const std::vector<double> last_losses(undisturbed.losses.begin() + 3, undisturbed.losses.end());
  for (const Layout& saved : layouts) {
    // The first three steps of eight: the schedule knows where it ends.
    const TrainingRun first = TrainSteps(config, saved, 0, 3, nullptr);
    for (const Layout& loaded : layouts) {
      const TrainingRun rest = TrainSteps(config, loaded, 3, 8, &first);
      const std::string where =
          absl::StrCat("saved on ", saved.ranks, "/", saved.expert_parallel, ", loaded on ",
                       loaded.ranks, "/", loaded.expert_parallel);
      EXPECT_EQ(rest.losses, last_losses) << where;
      EXPECT_EQ(rest.Sha256(), undisturbed.Sha256()) << where;
    }
  }
}

// Fewer experts than ranks, a shared expert, SwiGLU, two microbatches and recomputed activations.
TEST(LayoutInvariance, EverySettingAtOnce) {
  TrainingConfig config = SmallConfig(Family::kDiffMoe);
  config.model.experts = 2;
  config.model.shared_experts = 1;
  config.model.activation = Activation::kSwiglu;
  config.unit_samples = 2;
  config.accumulation = 2;
  config.recompute = true;
  config.steps = 10;
  CheckLayouts(config, {{2, 1}, {4, 1}, {4, 2}});
}

// Recomputation changes nothing but time and memory.
TEST(LayoutInvariance, RecomputationGivesTheSameBits) {
  TrainingConfig config = SmallConfig(Family::kDiffMoe);
  config.steps = 5;
  const TrainingRun kept = Train(config, {1, 1});
  config.recompute = true;
  ExpectSameBits(Train(config, {2, 2}), kept, "recomputed");
}

TEST(LayoutInvariance, Bf16) {
  TrainingConfig config = SmallConfig(Family::kDiffMoe);
  config.precision = Precision::kBf16;
  config.steps = 10;
  CheckLayouts(config, {{2, 1}, {4, 4}});
  // Rounded products, same training: 8 bits of mantissa are half a percent.
  const TrainingRun rounded = Train(config, {1, 1});
  config.precision = Precision::kFp32;
  const TrainingRun wide = Train(config, {1, 1});
  for (size_t step = 0; step < wide.losses.size(); ++step) {
    EXPECT_NEAR(rounded.losses[step], wide.losses[step], 5e-3 * wide.losses[step]) << step;
  }
  EXPECT_NE(rounded.Sha256(), wide.Sha256());
}

// Faster order of sums, same training. Three layouts that are exact in deterministic mode.
TEST(LayoutInvariance, FastModeDiffersByRoundingOnly) {
  TrainingConfig config = SmallConfig(Family::kDiffMoe);
  config.steps = 5;
  const TrainingRun exact = Train(config, {1, 1});
  config.deterministic = false;
  for (const Layout& layout : {Layout{1, 1}, Layout{2, 1}, Layout{4, 2}}) {
    const TrainingRun fast = Train(config, layout);
    for (size_t step = 0; step < exact.losses.size(); ++step) {
      EXPECT_NEAR(fast.losses[step], exact.losses[step], 1e-5 * exact.losses[step]) << step;
    }
  }
}

}  // namespace
}  // namespace diffmoe
