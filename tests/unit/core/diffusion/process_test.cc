#include "core/diffusion/process.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/philox.h"
#include "core/diffusion/ddpm.h"

namespace diffmoe {
namespace {

at::Tensor Normal(std::vector<int64_t> shape, uint64_t major) {
  at::Tensor out = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  RandomStream(11, RandomUse::kNoise, major, 0)
      .Normal({out.data_ptr<float>(), static_cast<size_t>(out.numel())});
  return out.to(at::kDouble);
}

at::Tensor Times(const std::vector<float>& values) {
  at::Tensor t = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::copy(values.begin(), values.end(), t.data_ptr<float>());
  return t;
}

std::unique_ptr<Process> Make(ProcessKind kind) {
  DiffusionConfig config;
  config.process = kind;
  return MakeProcess(config);
}

struct Case {
  ProcessKind process;
  int64_t out_channels;
  std::vector<float> t;  // three samples
};

class ProcessLossTest : public testing::TestWithParam<Case> {
 protected:
  // Loss of samples [first, first + n) with the output changed by `change`.
  ProcessLoss LossOf(int64_t first, int64_t n, const at::Tensor& output) const {
    const auto part = [&](const at::Tensor& all) { return all.narrow(0, first, n); };
    return process_->Loss(part(output), part(x_), part(noise_), part(noisy_), part(t_), kElements);
  }

  static constexpr double kElements = 3 * 2 * 4 * 4;
  const std::unique_ptr<Process> process_ = Make(GetParam().process);
  const at::Tensor t_ = Times(GetParam().t);
  const at::Tensor x_ = Normal({3, 2, 4, 4}, 0).clamp(-1, 1), noise_ = Normal({3, 2, 4, 4}, 1);
  const at::Tensor noisy_ = process_->Noisy(x_, noise_, t_);
  const at::Tensor output_ = Normal({3, GetParam().out_channels, 4, 4}, 2);
};

TEST_P(ProcessLossTest, SamplesAddUpAndDoNotSeeEachOther) {
  const ProcessLoss all = LossOf(0, 3, output_);
  double sum = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const ProcessLoss one = LossOf(i, 1, output_);
    sum += one.loss;
    EXPECT_TRUE(one.grad_output.allclose(all.grad_output.narrow(0, i, 1), 1e-12, 0)) << i;
  }
  EXPECT_NEAR(sum, all.loss, 1e-12 * all.loss);
}

// Along a direction that leaves the mean of the model alone, the loss changes as the gradient says.
// The noise channels of DDPM enter the bound too, where they count as constants, so only the
// squared error is checked there.
TEST_P(ProcessLossTest, GradientIsTheSlopeOfTheLoss) {
  const bool variance = GetParam().out_channels > 2;
  const int64_t first = variance ? 2 : 0;
  at::Tensor direction = Normal({3, GetParam().out_channels, 4, 4}, 3);
  if (variance) direction.narrow(1, 0, first).zero_();
  constexpr double kStep = 1e-5;
  const double slope = (LossOf(0, 3, output_.add(direction, kStep)).loss -
                        LossOf(0, 3, output_.sub(direction, kStep)).loss) /
                       (2 * kStep);
  const double expected = LossOf(0, 3, output_).grad_output.mul(direction).sum().item<double>();
  EXPECT_NE(expected, 0);
  EXPECT_NEAR(slope, expected, 1e-6 * std::abs(expected) + 1e-9);
}

INSTANTIATE_TEST_SUITE_P(Processes, ProcessLossTest,
                         testing::Values(Case{ProcessKind::kRectifiedFlow, 2, {0, 0.3f, 1}},
                                         Case{ProcessKind::kDdpm, 2, {0, 500, 999}},
                                         Case{ProcessKind::kDdpm, 4, {0, 500, 999}}),
                         [](const auto& row) {
                           return std::string(row.param.process == ProcessKind::kDdpm ? "ddpm"
                                                                                      : "flow") +
                                  std::to_string(row.param.out_channels);
                         });

TEST(Process, ModelTimeAndProgress) {
  const auto flow = Make(ProcessKind::kRectifiedFlow), ddpm = Make(ProcessKind::kDdpm);
  EXPECT_TRUE(flow->ModelTime(Times({0, 0.5f}), 1000).equal(Times({0, 500})));
  EXPECT_TRUE(ddpm->ModelTime(Times({0, 999}), 1000).equal(Times({0, 999})));
  EXPECT_EQ(flow->Progress(0), 0);
  EXPECT_EQ(flow->Progress(1.5), 1);  // dopri5 looks beyond the end
  EXPECT_EQ(ddpm->Progress(999), 0);
  EXPECT_EQ(ddpm->Progress(0), 1);
}

TEST(Process, DdpmGoesFromDataToNoise) {
  const auto ddpm = Make(ProcessKind::kDdpm);
  const at::Tensor x = Normal({2, 1, 4, 4}, 0), noise = Normal({2, 1, 4, 4}, 1);
  const at::Tensor noisy = ddpm->Noisy(x, noise, Times({0, 999}));
  EXPECT_LT(noisy[0].sub(x[0]).abs().max().item<double>(), 0.05);
  EXPECT_LT(noisy[1].sub(noise[1]).abs().max().item<double>(), 0.05);
}

TEST(Process, DdpmRefusesStepsAndChannelsThatDoNotExist) {
  const auto ddpm = Make(ProcessKind::kDdpm);
  const at::Tensor x = Normal({1, 2, 4, 4}, 0), noise = Normal({1, 2, 4, 4}, 1);
  EXPECT_THROW(ddpm->Noisy(x, noise, Times({1000})), std::invalid_argument);
  EXPECT_THROW(ddpm->Loss(Normal({1, 3, 4, 4}, 2), x, noise, x, Times({5}), 32),
               std::invalid_argument);
}

TEST(DdpmTrainingTime, CoversAllStepsEvenly) {
  EXPECT_EQ(DdpmTrainingTime(0), 0);
  EXPECT_EQ(DdpmTrainingTime(0.0009999), 0);
  EXPECT_EQ(DdpmTrainingTime(0.001), 1);
  EXPECT_EQ(DdpmTrainingTime(0.99999994), 999);
}

// The bound is a proper negative log likelihood: over all 256 pixel values it sums to one.
TEST(VariationalBoundTerm, IsALikelihoodAtStepZero) {
  at::Tensor values = at::empty({256, 1, 1, 1}, at::kDouble);
  for (int64_t i = 0; i < 256; ++i) {
    values.data_ptr<double>()[i] = static_cast<double>(i) / 127.5 - 1;
  }
  // One noisy pixel and one network output for all of them.
  const at::Tensor noisy = at::full({256, 1, 1, 1}, 0.2, at::kDouble);
  const at::Tensor output = at::full({256, 2, 1, 1}, 0.5, at::kDouble);
  const VariationalBound bound = VariationalBoundTerm(DdpmSchedule::Linear(), output, values, noisy,
                                                      at::full({256}, 0, at::kLong));
  EXPECT_NEAR(bound.bits.neg().exp2().sum().item<double>(), 1, 1e-6);
}

}  // namespace
}  // namespace diffmoe
