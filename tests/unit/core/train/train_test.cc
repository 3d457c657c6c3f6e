#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/train/adamw.h"
#include "core/train/batch.h"
#include "core/train/schedule.h"
#include "core/train/train_engine.h"

namespace diffmoe {
namespace {

TEST(Adamw, TwoStepsByHand) {
  AdamwStep step{.learning_rate = 0.1,
                 .beta1 = 0.9,
                 .beta2 = 0.99,
                 .epsilon = 1e-8,
                 .weight_decay = 0.5,
                 .ema_decay = 0.5,
                 .step = 1,
                 .grad_scale = 0.5};
  std::vector<double> grad{2, -4}, weight{1, 1}, m{0, 0}, v{0, 0}, ema{1, 1};
  AdamwEma<double>(step, 2, grad.data(), weight.data(), m.data(), v.data(), ema.data());
  // The first step is the sign of the gradient times the rate, after the decay 1 - 0.1 * 0.5.
  EXPECT_NEAR(weight[0], 0.95 - 0.1, 1e-7);
  EXPECT_NEAR(weight[1], 0.95 + 0.1, 1e-7);
  EXPECT_NEAR(ema[0], 0.5 + 0.5 * weight[0], 1e-12);
  const double before = weight[0];
  step.step = 2;
  grad = {0, 0};
  AdamwEma<double>(step, 2, grad.data(), weight.data(), m.data(), v.data(), ema.data());
  const double m_hat = 0.9 * 0.1 * 1 / (1 - 0.81), v_hat = 0.99 * 0.01 * 1 / (1 - 0.99 * 0.99);
  EXPECT_NEAR(weight[0], 0.95 * before - 0.1 * m_hat / (std::sqrt(v_hat) + 1e-8), 1e-7);
}

TEST(Adamw, AnElementDoesNotDependOnItsNeighbours) {
  const AdamwStep step{.learning_rate = 0.01, .ema_decay = 0.9};
  std::vector<float> grad(1000), weight(1000, 0.3f), m(1000, 0.1f), v(1000, 0.2f), ema(1000, 0.3f);
  for (size_t i = 0; i < grad.size(); ++i) grad[i] = std::sin(static_cast<float>(i));
  std::vector<float> w2 = weight, m2 = m, v2 = v, e2 = ema;
  AdamwEma<float>(step, 1000, grad.data(), weight.data(), m.data(), v.data(), ema.data());
  for (int64_t begin : {0, 16, 528}) {
    const int64_t end = begin == 0 ? 16 : begin == 16 ? 528 : 1000;
    AdamwEma<float>(step, end - begin, grad.data() + begin, w2.data() + begin, m2.data() + begin,
                    v2.data() + begin, e2.data() + begin);
  }
  EXPECT_EQ(weight, w2);
  EXPECT_EQ(ema, e2);
}

TEST(Schedule, WarmsUpThenFallsToTheFinalRatio) {
  OptimizerConfig optimizer;
  optimizer.learning_rate = 1;
  optimizer.warmup_steps = 4;
  optimizer.final_ratio = 0.1;
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 0, 0), 0.25);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 3, 0), 1);
  EXPECT_NEAR(LearningRateAt(optimizer, 100, 0.5), 0.55, 1e-12);
  EXPECT_NEAR(LearningRateAt(optimizer, 100, 1), 0.1, 1e-12);
  EXPECT_DOUBLE_EQ(EmaDecayAt(optimizer, 0), 0.1);
  EXPECT_DOUBLE_EQ(EmaDecayAt(optimizer, 1 << 30), optimizer.ema_decay);
}

TEST(TrainingProgress, FollowsWhicheverEndsFirst) {
  TrainingConfig config;
  config.steps = 100;
  EXPECT_DOUBLE_EQ(TrainingProgress(config, 25, 1e9), 0.25);
  config.minutes = 1;
  EXPECT_DOUBLE_EQ(TrainingProgress(config, 25, 30), 0.5);
  EXPECT_DOUBLE_EQ(TrainingProgress(config, 75, 30), 0.75);
  EXPECT_DOUBLE_EQ(TrainingProgress(config, 75, 300), 1);
}

TEST(MakeBatch, DoesNotDependOnTheNumberOfRanks) {
  TrainingConfig config;
  config.model.image_size = 8;
  config.global_batch = 8;
  config.data.flip = true;
  const auto read = [](uint64_t index, std::span<float> out) {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<float>(index) + static_cast<float>(i) * 1e-3f;
    return static_cast<int>(index % 10);
  };
  const Batch whole = MakeBatch(config, 5, 0, 1, 100, read);
  for (int rank = 0; rank < 4; ++rank) {
    const Batch part = MakeBatch(config, 5, rank, 4, 100, read);
    EXPECT_TRUE(part.images.equal(whole.images.narrow(0, 2 * rank, 2)));
    EXPECT_TRUE(part.noise.equal(whole.noise.narrow(0, 2 * rank, 2)));
    EXPECT_TRUE(part.t.equal(whole.t.narrow(0, 2 * rank, 2)));
    EXPECT_TRUE(part.labels.equal(whole.labels.narrow(0, 2 * rank, 2)));
  }
  EXPECT_FALSE(MakeBatch(config, 6, 0, 1, 100, read).noise.equal(whole.noise));
}

TEST(MakeBatch, OnePassSeesEveryImageOnce) {
  TrainingConfig config;
  config.model.image_size = 4;
  config.global_batch = 10;
  config.diffusion.label_dropout = 0;
  std::vector<int> seen(100, 0);
  for (int64_t step = 0; step < 10; ++step) {
    MakeBatch(config, step, 0, 1, 100, [&](uint64_t index, std::span<float>) {
      ++seen[index];
      return 0;
    });
  }
  EXPECT_EQ(seen, std::vector<int>(100, 1));
}

}  // namespace
}  // namespace diffmoe
