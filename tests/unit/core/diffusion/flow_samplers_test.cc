#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "core/base/philox.h"
#include "tests/unit/core/diffusion/gaussian_model.h"

namespace diffmoe {
namespace {

const GaussianModel kModel;

// [1, 1, 1, n] fp64.
at::Tensor Noise(int64_t n, uint64_t major) {
  at::Tensor noise = at::empty({1, 1, 1, n}, at::TensorOptions().dtype(at::kFloat));
  RandomStream(5, RandomUse::kSampleNoise, major, 0)
      .Normal({noise.data_ptr<float>(), static_cast<size_t>(n)});
  return noise.to(at::kDouble);
}

std::unique_ptr<Sampler> Make(SamplerKind kind, int64_t steps, const at::Tensor& noise,
                              const StepNoise& step_noise = {}) {
  SamplerOptions options;
  options.kind = kind;
  options.steps = steps;
  return MakeSampler(options, ProcessKind::kRectifiedFlow, noise, step_noise);
}

double EndError(SamplerKind kind, int64_t steps) {
  const at::Tensor noise = Noise(64, 0);
  const auto sampler = Make(kind, steps, noise);
  RunFlow(kModel, *sampler);
  return sampler->x().sub(kModel.FlowEnd(noise)).abs().max().item<double>();
}

// log2 of the factor by which the error falls when the steps are doubled.
double OrderOf(SamplerKind kind, int64_t steps) {
  return std::log2(EndError(kind, steps) / EndError(kind, 2 * steps));
}

TEST(EulerSampler, IsOfOrderOne) { EXPECT_NEAR(OrderOf(SamplerKind::kEuler, 64), 1, 0.1); }

TEST(HeunSampler, IsOfOrderTwo) { EXPECT_NEAR(OrderOf(SamplerKind::kHeun, 64), 2, 0.1); }

TEST(FlowSampler, TellsStepsAndProgress) {
  const at::Tensor noise = Noise(4, 0);
  const auto heun = Make(SamplerKind::kHeun, 2, noise);
  const double times[] = {0, 0.5, 0.5, 1}, progress[] = {0, 0, 0.5, 0.5};
  const int64_t steps[] = {0, 0, 1, 1};
  for (size_t i = 0; i < 4; ++i) {
    ASSERT_FALSE(heun->done());
    EXPECT_EQ(heun->progress(), progress[i]);
    EXPECT_EQ(heun->steps_done(), steps[i]);
    const NetworkCall call = heun->next();
    EXPECT_EQ(call.t, times[i]);
    heun->Feed(kModel.Velocity(call.x, call.t));
  }
  EXPECT_TRUE(heun->done());
  EXPECT_EQ(heun->progress(), 1);
}

TEST(Dopri5Sampler, EndsWithinItsTolerance) {
  const at::Tensor noise = Noise(64, 0);
  int64_t calls = 0;
  double error = 1;
  for (const double tolerance : {1e-3, 1e-6, 1e-9}) {
    SamplerOptions options;
    options.kind = SamplerKind::kDopri5;
    options.relative_tolerance = options.absolute_tolerance = tolerance;
    const auto sampler = MakeSampler(options, ProcessKind::kRectifiedFlow, noise, {});
    const int64_t needed = RunFlow(kModel, *sampler);
    const double got = sampler->x().sub(kModel.FlowEnd(noise)).abs().max().item<double>();
    // The control is of the error per step, and the last step is interpolated.
    EXPECT_LT(got, 50 * tolerance);
    EXPECT_LT(got, error);
    EXPECT_GT(needed, calls);
    EXPECT_EQ((needed - 2) % 6, 0);  // six calls per step after the two that choose its length
    calls = needed;
    error = got;
  }
}

TEST(Dopri5Sampler, SaysWhenItCannotGoOn) {
  const auto sampler = Make(SamplerKind::kDopri5, 1, Noise(4, 0));
  const at::Tensor bad = at::full_like(sampler->x(), std::nan(""));
  EXPECT_THROW(
      {
        for (int i = 0; i < 8; ++i) sampler->Feed(bad);
      },
      std::runtime_error);
}

// Statistics of n independent pixels: the mean within 5 standard errors plus the bias of the
// discretisation, likewise the standard deviation.
void ExpectMoments(const at::Tensor& x, double mean, double deviation, double bias) {
  const double n = static_cast<double>(x.numel());
  EXPECT_NEAR(x.mean().item<double>(), mean, 5 * deviation / std::sqrt(n) + bias);
  EXPECT_NEAR(x.std().item<double>(), deviation, 5 * deviation / std::sqrt(2 * n) + bias);
}

TEST(EulerMaruyamaSampler, EndsInTheDataDistribution) {
  constexpr int64_t kPixels = 40000;
  const auto sampler = Make(SamplerKind::kEulerMaruyama, 250, Noise(kPixels, 0), [](int64_t step) {
    return Noise(kPixels, 1 + static_cast<uint64_t>(step));
  });
  EXPECT_EQ(RunFlow(kModel, *sampler), 250);
  // The last step, 0.04 long and without noise, takes 0.04^2 / (2 variance) off the deviation.
  ExpectMoments(sampler->x(), kModel.mean, kModel.deviation, 0.01);
  // It isn't the ODE: the end doesn't follow from the start.
  EXPECT_GT(sampler->x().sub(kModel.FlowEnd(Noise(kPixels, 0))).abs().mean().item<double>(), 0.3);
}

TEST(EulerMaruyamaSampler, HasTheMarginalsOfTheFlowOnTheWay) {
  constexpr int64_t kPixels = 40000;
  const auto sampler = Make(SamplerKind::kEulerMaruyama, 250, Noise(kPixels, 0), [](int64_t step) {
    return Noise(kPixels, 1 + static_cast<uint64_t>(step));
  });
  while (sampler->next().t < 0.5) sampler->Feed(kModel.Velocity(sampler->x(), sampler->next().t));
  const double t = sampler->next().t;
  ExpectMoments(sampler->x(), t * kModel.mean, std::hypot(t * kModel.deviation, 1 - t), 0.01);
}

TEST(FlowSampler, RefusesTheOtherProcessAndBadSteps) {
  SamplerOptions options;
  options.kind = SamplerKind::kHeun;
  options.steps = 0;
  EXPECT_THROW(MakeSampler(options, ProcessKind::kRectifiedFlow, Noise(4, 0), {}),
               std::invalid_argument);
  options.steps = 10;
  EXPECT_THROW(MakeSampler(options, ProcessKind::kDdpm, Noise(4, 0), {}), std::invalid_argument);
}

}  // namespace
}  // namespace diffmoe
