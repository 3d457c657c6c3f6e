#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/philox.h"
#include "tests/unit/core/diffusion/gaussian_model.h"

namespace diffmoe {
namespace {

const GaussianModel kModel;

at::Tensor Noise(int64_t n, uint64_t major) {
  at::Tensor noise = at::empty({1, 1, 1, n}, at::TensorOptions().dtype(at::kFloat));
  RandomStream(5, RandomUse::kSampleNoise, major, 0)
      .Normal({noise.data_ptr<float>(), static_cast<size_t>(n)});
  return noise.to(at::kDouble);
}

SamplerOptions Options(SamplerKind kind, int64_t steps, double eta = 0) {
  SamplerOptions options;
  options.kind = kind;
  options.steps = steps;
  options.eta = eta;
  return options;
}

// A schedule that is smooth in the logarithm of the signal-to-noise ratio over all its steps, so
// that an order shows: that logarithm goes from 3 down to -5.
DdpmSchedule SmoothSchedule(int64_t steps) {
  std::vector<double> betas;
  double previous = 1;
  for (int64_t i = 0; i < steps; ++i) {
    const double log_snr = 3 - 8 * static_cast<double>(i) / static_cast<double>(steps - 1);
    const double a = 1 / (1 + std::exp(-log_snr));
    betas.push_back(1 - a / previous);
    previous = a;
  }
  return DdpmSchedule::FromBetas(betas);
}

double EndErrorOnSmoothSchedule(SamplerKind kind, int64_t steps) {
  const at::Tensor noise = Noise(64, 0);
  const DdpmSchedule schedule = SmoothSchedule(steps);
  const auto sampler = MakeDdpmSampler(Options(kind, steps), schedule, noise, {});
  EXPECT_EQ(RunDdpm(kModel, schedule, *sampler), steps);
  return sampler->x().sub(kModel.DdpmEnd(schedule, noise)).abs().max().item<double>();
}

double OrderOf(SamplerKind kind, int64_t steps) {
  return std::log2(EndErrorOnSmoothSchedule(kind, steps) /
                   EndErrorOnSmoothSchedule(kind, 2 * steps));
}

TEST(DdimSampler, IsOfOrderOne) { EXPECT_NEAR(OrderOf(SamplerKind::kDdim, 128), 1, 0.1); }

TEST(DpmSolver2MSampler, IsOfOrderTwo) {
  EXPECT_NEAR(OrderOf(SamplerKind::kDpmSolver2M, 128), 2, 0.15);
}

double EndErrorOnLinearSchedule(SamplerKind kind, int64_t steps) {
  const at::Tensor noise = Noise(64, 0);
  const DdpmSchedule linear = DdpmSchedule::Linear();
  const auto fine =
      MakeSampler(Options(SamplerKind::kDdim, kDdpmSteps), ProcessKind::kDdpm, noise, {});
  RunDdpm(kModel, linear, *fine);
  const auto sampler = MakeSampler(Options(kind, steps), ProcessKind::kDdpm, noise, {});
  EXPECT_EQ(RunDdpm(kModel, linear, *sampler), steps);
  return sampler->x().sub(fine->x()).abs().max().item<double>();
}

TEST(DpmSolver2MSampler, ComesNearerThanDdimWithTheSameCalls) {
  for (const int64_t steps : {10, 20, 50}) {
    EXPECT_LT(5 * EndErrorOnLinearSchedule(SamplerKind::kDpmSolver2M, steps),
              EndErrorOnLinearSchedule(SamplerKind::kDdim, steps))
        << steps;
  }
}

// Every stochastic sampler ends in the data distribution; 5 standard errors and the bias of steps.
void ExpectDataDistribution(const SamplerOptions& options, double bias) {
  constexpr int64_t kPixels = 40000;
  const auto sampler =
      MakeSampler(options, ProcessKind::kDdpm, Noise(kPixels, 0),
                  [](int64_t step) { return Noise(kPixels, 1 + static_cast<uint64_t>(step)); });
  RunDdpm(kModel, DdpmSchedule::Linear(), *sampler);
  const double error = 5 * kModel.deviation / std::sqrt(kPixels);
  EXPECT_NEAR(sampler->x().mean().item<double>(), kModel.mean, error + bias);
  EXPECT_NEAR(sampler->x().std().item<double>(), kModel.deviation, error / std::sqrt(2.0) + bias);
}

TEST(AncestralSampler, EndsInTheDataDistribution) {
  ExpectDataDistribution(Options(SamplerKind::kAncestral, 250), 0.01);
}

TEST(DdimSampler, WithNoiseEndsInTheDataDistribution) {
  ExpectDataDistribution(Options(SamplerKind::kDdim, 250, 1), 0.01);
}

TEST(DdimSampler, AsksForNoiseOnlyWithEta) {
  const auto sampler = MakeSampler(Options(SamplerKind::kDdim, 10), ProcessKind::kDdpm, Noise(4, 0),
                                   [](int64_t) -> at::Tensor {
                                     ADD_FAILURE() << "noise with eta = 0";
                                     return Noise(4, 1);
                                   });
  RunDdpm(kModel, DdpmSchedule::Linear(), *sampler);
}

TEST(KeyedStepNoise, IsAFunctionOfSeedImageAndStep) {
  ModelConfig model;
  model.image_size = 4;
  const StepNoise noise = KeyedStepNoise(model, 7, 3);
  EXPECT_TRUE(noise(5).equal(KeyedStepNoise(model, 7, 3)(5)));
  EXPECT_FALSE(noise(5).equal(noise(6)));
  EXPECT_FALSE(noise(5).equal(KeyedStepNoise(model, 7, 4)(5)));
  EXPECT_FALSE(noise(5).equal(KeyedStepNoise(model, 8, 3)(5)));
  EXPECT_FALSE(noise(0).equal(InitialNoise(model, 7, 3)));
}

TEST(SpacedSteps, RefusesWhatIsNotPossible) {
  for (const std::string spacing : {"1001", "ddim999", "0", "a", "", "10,600", "ddim", "-5"}) {
    EXPECT_THROW(SpacedSteps(kDdpmSteps, spacing), std::invalid_argument) << spacing;
  }
  EXPECT_EQ(SpacedSteps(6, "2,1"), (std::vector<int64_t>{0, 2, 3}));
}

TEST(LogSnrSteps, AreEvenAndDistinct) {
  const DdpmSchedule linear = DdpmSchedule::Linear();
  const std::vector<int64_t> ten = LogSnrSteps(linear, 10);
  const double stride = (linear.HalfLogSnr(0) - linear.HalfLogSnr(999)) / 9;
  for (size_t i = 0; i < ten.size(); ++i) {
    // Steps near 0 are 0.35 apart in this measure.
    EXPECT_NEAR(linear.HalfLogSnr(ten[i]), linear.HalfLogSnr(0) - stride * static_cast<double>(i),
                0.18);
  }
  for (const int64_t count : {2, 50, 500, 999, 1000}) {
    const std::vector<int64_t> steps = LogSnrSteps(linear, count);
    ASSERT_EQ(static_cast<int64_t>(steps.size()), count);
    EXPECT_EQ(steps.front(), 0);
    EXPECT_EQ(steps.back(), 999);
    for (size_t i = 1; i < steps.size(); ++i) EXPECT_GT(steps[i], steps[i - 1]);
  }
  EXPECT_THROW(LogSnrSteps(linear, 1), std::invalid_argument);
  EXPECT_THROW(LogSnrSteps(linear, 1001), std::invalid_argument);
}

TEST(DdpmSchedule, RefusesBadBetas) {
  EXPECT_THROW(DdpmSchedule::FromBetas({0.1}), std::invalid_argument);
  EXPECT_THROW(DdpmSchedule::FromBetas({0.1, 0}), std::invalid_argument);
  EXPECT_THROW(DdpmSchedule::FromBetas({0.1, 1}), std::invalid_argument);
  EXPECT_THROW(DdpmSchedule::FromBetas({0.1, std::nan("")}), std::invalid_argument);
}

}  // namespace
}  // namespace diffmoe
