#include "core/diffusion/rectified_flow.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

namespace diffmoe {
namespace {

TEST(EulerStep, AllStepsTogetherCoverTheTimeFromNoiseToData) {
  at::Tensor x = at::full({1, 1, 2, 2}, 1.0f);
  for (int step = 0; step < 4; ++step) x = EulerStep(x, at::full({1, 1, 2, 2}, 2.0f), 4);
  EXPECT_TRUE(x.equal(at::full({1, 1, 2, 2}, 3.0f)));
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
