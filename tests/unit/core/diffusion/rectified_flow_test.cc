#include "core/diffusion/rectified_flow.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

namespace diffmoe {
namespace {

TEST(EulerSample, ConstantVelocityIsExactAndStopsOnRequest) {
  const at::Tensor x = at::full({1, 1, 2, 2}, 1.0f);
  int calls = 0;
  const Velocity velocity = [&](const at::Tensor& at_x, double t) {
    EXPECT_DOUBLE_EQ(t, calls++ / 4.0);
    return at::full(at_x.sizes(), 2.0f);
  };
  EXPECT_TRUE(EulerSample(x, 4, velocity, nullptr).equal(at::full({1, 1, 2, 2}, 3.0f)));
  calls = 0;
  EulerSample(x, 4, velocity, [](int64_t step, const at::Tensor&) { return step < 2; });
  EXPECT_EQ(calls, 2);
}

TEST(RectifiedFlowLoss, UnitsAddUpToTheMeanAndSigmaChannelsGetNoGradient) {
  const at::Tensor output = at::full({2, 2, 2, 2}, 3.0f), target = at::full({2, 1, 2, 2}, 1.0f);
  const FlowLoss loss = RectifiedFlowLoss(output, target, 16);
  EXPECT_DOUBLE_EQ(loss.loss, 8 * 4.0 / 16);  // 8 elements of 16, error 2
  EXPECT_TRUE(loss.grad_output.narrow(1, 0, 1).equal(at::full({2, 1, 2, 2}, 2 * 2.0f / 16)));
  EXPECT_TRUE(loss.grad_output.narrow(1, 1, 1).equal(at::full({2, 1, 2, 2}, 0.0f)));
}

}  // namespace
}  // namespace diffmoe
