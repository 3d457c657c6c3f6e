#include "core/moe/moe_layer.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace diffmoe {
namespace {

ModelConfig Model() {
  ModelConfig model;
  model.image_size = 16;
  model.patch_size = 4;
  model.width = 64;
  model.depth = 2;
  model.heads = 2;
  model.experts = 4;
  return model;
}

class MoeLayerTest : public ::testing::Test {
 protected:
  MoeLayerTest()
      : collectives(MakeLocalCollectives()),
        layout(Model(), 0, 1),
        parameters(layout, at::kFloat),
        gradients(layout, at::kFloat) {
    parameters.Initialize(3);
  }
  std::unique_ptr<Collectives> collectives;
  ParameterLayout layout;
  Parameters parameters, gradients;
};

TEST_F(MoeLayerTest, NotANumberNamesLayerExpertAndRank) {
  MoeLayer layer(Model(), 1, parameters, parameters, MoeOptions{}, *collectives);
  at::Tensor x = at::randn({32, 64});
  x.select(0, 17).fill_(std::numeric_limits<float>::quiet_NaN());
  MoeLayer::SavedPtr saved;
  try {
    layer.Forward(x, 16, true, &saved, nullptr);
    FAIL() << "a token that is not a number went through";
  } catch (const NonFiniteScoreError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("block 1, expert 0"), std::string::npos) << message;
    EXPECT_NE(message.find("token 17 of rank 0"), std::string::npos) << message;
  }
}

TEST_F(MoeLayerTest, FirstThresholdIsTheQuantileThenMovesByOneTwentieth) {
  MoeLayer layer(Model(), 1, parameters, parameters, MoeOptions{}, *collectives);
  EXPECT_FALSE(layer.threshold_initialized());
  MoeLayer::SavedPtr saved;
  layer.Forward(at::randn({32, 64}), 16, true, &saved, nullptr);
  EXPECT_FALSE(layer.threshold_initialized());  // forward alone moves nothing
  const at::Tensor q1 = MoeLayer::Quantiles(*saved).clone();
  layer.UpdateThreshold(q1);
  EXPECT_TRUE(layer.threshold_initialized());
  EXPECT_TRUE(layer.threshold().to(at::kDouble).equal(q1));
  layer.Forward(at::randn({32, 64}), 16, true, &saved, nullptr);
  const at::Tensor q2 = MoeLayer::Quantiles(*saved);
  layer.UpdateThreshold(q2);
  const at::Tensor want = q1.mul(0.95).add(q2.mul(0.05));
  EXPECT_LT(layer.threshold().sub(want).abs().max().item<double>(), 1e-6);
  EXPECT_GT(layer.threshold().sub(q1).abs().max().item<double>(), 0);
}

TEST_F(MoeLayerTest, UnreachableThresholdGivesZeroAndUsesNoExpert) {
  MoeLayer layer(Model(), 1, parameters, parameters, MoeOptions{}, *collectives);
  layer.SetThreshold(at::full({4}, 1.0f), true);
  int64_t used = 0;
  const at::Tensor y = layer.Infer(at::randn({32, 64}), 32, &used);
  EXPECT_EQ(used, 0);
  EXPECT_EQ(y.abs().max().item<float>(), 0.0f);
}

TEST_F(MoeLayerTest, BatchMatesDoNotChooseATokensExperts) {
  MoeLayer layer(Model(), 1, parameters, parameters, MoeOptions{}, *collectives);
  layer.SetThreshold(at::full({4}, 0.5f), true);
  const at::Tensor mine = at::randn({16, 64}), theirs = at::randn({48, 64}).mul(10);
  int64_t alone = 0, together = 0, others = 0;
  const at::Tensor y = layer.Infer(mine, 16, &alone);
  const at::Tensor mixed = layer.Infer(at::cat({mine, theirs}), 64, &together);
  layer.Infer(theirs, 48, &others);
  EXPECT_EQ(together, alone + others);
  EXPECT_LT(mixed.narrow(0, 0, 16).sub(y).abs().max().item<float>(), 1e-5f);
}

}  // namespace
}  // namespace diffmoe
