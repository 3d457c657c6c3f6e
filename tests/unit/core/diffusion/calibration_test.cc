#include "core/diffusion/calibration.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

namespace diffmoe {
namespace {

TrainingConfig Config(ProcessKind process) {
  TrainingConfig config;
  config.diffusion.process = process;
  config.model.image_size = 8;
  config.model.patch_size = 2;
  config.model.width = 64;
  config.model.depth = 4;
  config.model.heads = 2;
  config.model.experts = 4;
  config.model.learn_sigma = process == ProcessKind::kDdpm;
  return config;
}

int ReadWave(int64_t index, float* out) {
  for (int i = 0; i < 64; ++i) {
    out[i] = std::sin(0.1f * static_cast<float>(i) * static_cast<float>(1 + index % 7));
  }
  return static_cast<int>(index % 10);
}

class CalibrationTest : public testing::TestWithParam<ProcessKind> {
 protected:
  CalibrationTest() {
    at::Tensor dense = denoiser_.parameters().dense(), experts = denoiser_.parameters().experts();
    dense.copy_(at::randn(dense.sizes()).mul(0.1));
    experts.copy_(at::randn(experts.sizes()).mul(0.1));
    denoiser_.Pack();
  }
  std::vector<CalibrationTarget> Run(std::vector<double> capacities) {
    Calibration calibration(denoiser_, *process_, config_.model,
                            MakeCalibrationData(config_, 96, 1000, ReadWave),
                            std::move(capacities));
    double progress = 0;
    while (!calibration.done()) {
      EXPECT_GE(calibration.progress(), progress - 1e-9);
      progress = calibration.progress();
      calibration.Step();
    }
    EXPECT_EQ(calibration.progress(), 1);
    return calibration.targets();
  }
  // Experts per token of a call with these thresholds.
  double Used(const CalibrationTarget& target, const CalibrationData& data) {
    const int64_t n = data.images.size(0);
    DenoiseBatch batch;
    batch.x = process_->Noisy(data.images, data.noise, data.t);
    batch.model_time = process_->ModelTime(data.t, config_.model.time_scale);
    batch.labels = data.labels;
    batch.thresholds = at::empty({n, 2, 4}, at::TensorOptions().dtype(at::kFloat));
    for (int64_t l = 0; l < 2; ++l) {
      for (int64_t e = 0; e < 4; ++e) {
        batch.thresholds.select(1, l).select(1, e).fill_(
            target.thresholds[static_cast<size_t>(l)][static_cast<size_t>(e)]);
      }
    }
    batch.by_gate = at::full({n}, target.rule == CalibrationRule::kGate ? 1 : 0,
                             at::TensorOptions().dtype(at::kByte));
    DenoiseCounts counts;
    denoiser_.RunBatch(batch, &counts);
    return counts.used.sum().item<double>() / static_cast<double>(n * 16 * 2);
  }

  const TrainingConfig config_ = Config(GetParam());
  Denoiser denoiser_{config_.model, at::kFloat};
  const std::unique_ptr<Process> process_ = MakeProcess(config_.diffusion);
};

TEST_P(CalibrationTest, GivesTheWantedCapacityOnTheImagesItSaw) {
  const CalibrationData data = MakeCalibrationData(config_, 96, 1000, ReadWave);
  CalibrationData seen{data.images.narrow(0, 0, 96), data.noise.narrow(0, 0, 96),
                       data.t.narrow(0, 0, 96), data.labels.narrow(0, 0, 96)};
  const std::vector<CalibrationTarget> targets = Run({0.5, 1, 2});
  ASSERT_EQ(targets.size(), 9u);
  for (const CalibrationTarget& target : targets) {
    // Quantiles are exact; the one threshold is searched.
    const double tolerance = target.rule == CalibrationRule::kInterval ? 0.01 : 1e-6;
    EXPECT_NEAR(Used(target, seen) / target.capacity, 1, tolerance)
        << static_cast<int>(target.rule) << " " << target.capacity;
  }
}

TEST_P(CalibrationTest, MeasuresOnOtherImages) {
  const CalibrationData data = MakeCalibrationData(config_, 96, 1000, ReadWave);
  CalibrationData unseen{data.images.narrow(0, 96, 96), data.noise.narrow(0, 96, 96),
                         data.t.narrow(0, 96, 96), data.labels.narrow(0, 96, 96)};
  for (const CalibrationTarget& target : Run({1.5})) {
    EXPECT_NEAR(target.measured, Used(target, unseen), 1e-6);
    EXPECT_NEAR(target.measured / target.capacity, 1, 0.1);
    EXPECT_GT(target.loss, 0);
    EXPECT_EQ(target.layer_capacity.size(), 2u);
  }
}

TEST_P(CalibrationTest, EveryExpertMayBeUsedByAllTokens) {
  for (const CalibrationTarget& target : Run({4})) {
    if (target.rule == CalibrationRule::kInterval) continue;
    EXPECT_EQ(target.measured, 4);
  }
}

TEST_P(CalibrationTest, IsDeterministic) {
  const auto first = Run({1}), second = Run({1});
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].thresholds, second[i].thresholds);
    EXPECT_EQ(first[i].loss, second[i].loss);
  }
}

INSTANTIATE_TEST_SUITE_P(Processes, CalibrationTest,
                         testing::Values(ProcessKind::kRectifiedFlow, ProcessKind::kDdpm),
                         [](const auto& row) {
                           return row.param == ProcessKind::kDdpm ? "ddpm" : "flow";
                         });

TEST(CalibrationData, SpreadsTimesEvenlyAndDropsSomeLabels) {
  const TrainingConfig config = Config(ProcessKind::kRectifiedFlow);
  const CalibrationData data = MakeCalibrationData(config, 50, 1000, ReadWave);
  for (int64_t half = 0; half < 2; ++half) {
    std::vector<int> strata(50);
    int dropped = 0;
    for (int64_t i = 0; i < 50; ++i) {
      ++strata[static_cast<size_t>(data.t[half * 50 + i].item<float>() * 50)];
      if (data.labels[half * 50 + i].item<int64_t>() == config.model.classes) ++dropped;
    }
    EXPECT_EQ(strata, std::vector<int>(50, 1));
    EXPECT_EQ(dropped, 5);
  }
}

TEST(CalibrationData, TakesWhatASmallDataSetHas) {
  const TrainingConfig config = Config(ProcessKind::kRectifiedFlow);
  EXPECT_EQ(MakeCalibrationData(config, 50, 31, ReadWave).images.size(0), 30);
  EXPECT_THROW(MakeCalibrationData(config, 50, 1, ReadWave), std::invalid_argument);
}

TEST(Calibration, RefusesModelsWithoutThresholds) {
  TrainingConfig config = Config(ProcessKind::kRectifiedFlow);
  config.model.family = Family::kTokenChoice;
  const Denoiser denoiser(config.model, at::kFloat);
  const auto process = MakeProcess(config.diffusion);
  EXPECT_THROW(Calibration(denoiser, *process, config.model,
                           MakeCalibrationData(config, 4, 100, ReadWave), {1}),
               std::invalid_argument);
}

}  // namespace
}  // namespace diffmoe
