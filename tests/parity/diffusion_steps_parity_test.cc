// One DDPM or DDIM step and the training loss, for a network that returns a stored tensor, against
// the published code. Both sides compute in fp32 from coefficients made in fp64; the variational
// bound is ours in fp64, so its gradient shows the cancellation of the published fp32 at small t.
#include "core/diffusion/ddpm.h"
#include "core/diffusion/process.h"
#include "tests/parity/fixture.h"

namespace diffmoe {
namespace {

constexpr double kTolerance = 1e-4;  // of the tensor's largest value
constexpr int64_t kChannels = 4;

::testing::AssertionResult CloseToLargest(const at::Tensor& got, const at::Tensor& want,
                                          double relative = kTolerance) {
  return Close(got, want, relative * want.abs().max().item<double>());
}

class DiffusionStepsParity : public testing::TestWithParam<const char*> {
 protected:
  at::Tensor Shared(const std::string& name) const { return golden_.at("in." + name); }
  at::Tensor In(const std::string& name) const { return golden_.at(Prefix() + ".in." + name); }
  at::Tensor Out(const std::string& name) const { return golden_.at(Prefix() + ".out." + name); }
  std::string Prefix() const { return GetParam(); }
  DdpmSchedule Schedule() const {
    const DdpmSchedule linear = DdpmSchedule::Linear();
    return Prefix() == "ddpm1000" ? linear : linear.Respaced(SpacedSteps(kDdpmSteps, "50"));
  }
  DdpmPrediction PredictWith(VarianceKind kind, bool clip) const {
    const at::Tensor output = Shared("model_out");
    return Predict(Schedule(), kind,
                   kind == VarianceKind::kLearnedRange ? output : output.narrow(1, 0, kChannels),
                   Shared("x"), In("t"), clip);
  }

  const Fixture golden_{"diffusion_steps"};
};

TEST_P(DiffusionStepsParity, AddsNoise) {
  EXPECT_TRUE(CloseToLargest(AddNoise(Schedule(), Shared("x0"), Shared("noise"), In("t")),
                             Out("q_sample")));
}

TEST_P(DiffusionStepsParity, MeanAndVariance) {
  const DdpmPrediction prediction = PredictWith(VarianceKind::kLearnedRange, false);
  EXPECT_TRUE(CloseToLargest(prediction.x0, Out("pred_xstart.noclip")));
  EXPECT_TRUE(CloseToLargest(prediction.mean, Out("mean")));
  EXPECT_TRUE(CloseToLargest(prediction.variance, Out("variance")));
  EXPECT_TRUE(CloseToLargest(prediction.log_variance, Out("log_variance")));
  EXPECT_TRUE(
      CloseToLargest(PredictWith(VarianceKind::kLearnedRange, true).x0, Out("pred_xstart.clip")));
}

TEST_P(DiffusionStepsParity, AncestralStep) {
  const auto step = [&](VarianceKind kind, bool clip) {
    return AncestralStep(PredictWith(kind, clip), In("t"), In("step_noise"));
  };
  EXPECT_TRUE(CloseToLargest(step(VarianceKind::kLearnedRange, true), Out("p_sample.clip")));
  EXPECT_TRUE(CloseToLargest(step(VarianceKind::kLearnedRange, false), Out("p_sample.noclip")));
  EXPECT_TRUE(CloseToLargest(step(VarianceKind::kFixedLarge, false), Out("p_sample.fixed_large")));
  EXPECT_TRUE(CloseToLargest(step(VarianceKind::kFixedSmall, false), Out("p_sample.fixed_small")));
}

TEST_P(DiffusionStepsParity, DdimStep) {
  for (const bool clip : {false, true}) {
    const at::Tensor x0 = PredictWith(VarianceKind::kLearnedRange, clip).x0;
    const std::string suffix = clip ? ".clip" : ".noclip";
    const auto step = [&](double eta, const at::Tensor& noise) {
      return DdimStep(Schedule(), x0, Shared("x"), In("t"), eta, noise);
    };
    EXPECT_TRUE(CloseToLargest(step(0, at::Tensor()), Out("ddim_eta0.0" + suffix))) << suffix;
    EXPECT_TRUE(CloseToLargest(step(0.5, In("step_noise")), Out("ddim_eta0.5" + suffix))) << suffix;
  }
}

TEST_P(DiffusionStepsParity, DdimStepBack) {
  const at::Tensor x0 = PredictWith(VarianceKind::kLearnedRange, false).x0;
  EXPECT_TRUE(
      CloseToLargest(DdimReverseStep(Schedule(), x0, Shared("x"), In("t")), Out("ddim_reverse")));
}

TEST_P(DiffusionStepsParity, VariationalBoundAndGradient) {
  const at::Tensor output = Shared("model_out"), want = Out("grad_model_out");
  const VariationalBound bound =
      VariationalBoundTerm(Schedule(), output, Shared("x0"), Out("q_sample"), In("t"));
  EXPECT_TRUE(Close(bound.bits, Out("vb"), 0, kTolerance));
  const at::Tensor gradient = bound.grad_variance.div(static_cast<double>(Shared("x0").numel()));
  EXPECT_TRUE(CloseToLargest(gradient, want.narrow(1, kChannels, kChannels), 1e-3));
}

INSTANTIATE_TEST_SUITE_P(Schedules, DiffusionStepsParity, testing::Values("ddpm1000", "spaced50"),
                         [](const auto& row) { return std::string(row.param); });

TEST(DdpmLossParity, LossAndGradientOfUnitsAddUp) {
  const Fixture golden("diffusion_steps");
  DiffusionConfig config;
  config.process = ProcessKind::kDdpm;
  const std::unique_ptr<Process> process = MakeProcess(config);
  const at::Tensor x0 = golden.at("in.x0"), noise = golden.at("in.noise"),
                   output = golden.at("in.model_out"), t = golden.at("ddpm1000.in.t"),
                   want = golden.at("ddpm1000.out.grad_model_out"),
                   noisy = process->Noisy(x0, noise, t);
  EXPECT_TRUE(CloseToLargest(noisy, golden.at("ddpm1000.out.q_sample")));
  const double elements = static_cast<double>(x0.numel());
  double sum = 0;
  for (int64_t i = 0; i < x0.size(0); ++i) {
    const auto unit = [&](const at::Tensor& all) { return all.narrow(0, i, 1); };
    const ProcessLoss loss =
        process->Loss(unit(output), unit(x0), unit(noise), unit(noisy), unit(t), elements);
    sum += loss.loss;
    for (const int64_t first : {int64_t{0}, kChannels}) {
      EXPECT_TRUE(Close(loss.grad_output.narrow(1, first, kChannels),
                        unit(want).narrow(1, first, kChannels),
                        1e-3 * want.narrow(1, first, kChannels).abs().max().item<double>()));
    }
    const at::Tensor error = unit(output).narrow(1, 0, kChannels).sub(unit(noise));
    EXPECT_TRUE(
        Close(error.square().mean().view({1}), unit(golden.at("ddpm1000.out.mse")), 0, kTolerance));
  }
  const double loss = golden.scalar("ddpm1000.out.loss");
  EXPECT_NEAR(sum, loss, kTolerance * loss);
}

}  // namespace
}  // namespace diffmoe
