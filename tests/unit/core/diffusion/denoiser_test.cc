// Samples that share a call of the network.
#include "core/diffusion/denoiser.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <string>

namespace diffmoe {
namespace {

struct Case {
  const char* name;
  Family family;
  Activation activation = Activation::kGelu;
  int64_t shared_experts = 0;
};

class DenoiserTest : public testing::TestWithParam<Case> {
 protected:
  DenoiserTest() {
    at::Tensor dense = denoiser_.parameters().dense(), experts = denoiser_.parameters().experts();
    dense.copy_(at::randn(dense.sizes()).mul(0.1));
    if (experts.numel() > 0) experts.copy_(at::randn(experts.sizes()).mul(0.1));
    if (GetParam().family == Family::kDiffMoe)
      denoiser_.SetThresholds({{.4f, .5f, .6f}, {.5f, .5f, .5f}});
  }
  static ModelConfig Model() {
    ModelConfig model;
    model.family = GetParam().family;
    model.activation = GetParam().activation;
    model.shared_experts = GetParam().shared_experts;
    model.image_size = 6;
    model.patch_size = 2;
    model.width = 64;
    model.depth = 4;
    model.heads = 2;
    model.experts = 3;
    if (model.family == Family::kExpertChoice) model.pool = PoolScope::kSample;
    return model;
  }
  static DenoiseBatch Batch(int64_t n, int64_t side = 6) {
    DenoiseBatch batch;
    batch.x = at::randn({n, 1, side, side});
    batch.model_time = at::rand({n}).mul(1000);
    batch.labels = at::randint(0, 11, {n}, at::kLong);
    return batch;
  }
  static DenoiseBatch Rows(const DenoiseBatch& batch, int64_t begin, int64_t count) {
    const auto rows = [&](const at::Tensor& t) {
      return t.defined() ? t.narrow(0, begin, count) : t;
    };
    return {rows(batch.x), rows(batch.model_time), rows(batch.labels), rows(batch.thresholds),
            rows(batch.by_gate)};
  }
  bool HasThresholds() const { return GetParam().family == Family::kDiffMoe; }

  Denoiser denoiser_{Model(), at::kFloat};
};

TEST_P(DenoiserTest, PackedAndPlainProductsDifferByRoundingAlone) {
  const DenoiseBatch batch = Batch(7);
  const at::Tensor plain = denoiser_.RunBatch(batch);
  denoiser_.Pack();
  EXPECT_LT(denoiser_.RunBatch(batch).sub(plain).abs().max().item<double>(), 2e-4);
}

TEST_P(DenoiserTest, OnceInACallOrAloneASampleHasTheSameBits) {
  denoiser_.Pack();
  DenoiseBatch batch = Batch(9);
  if (HasThresholds()) {
    batch.thresholds = at::rand({9, 2, 3});
    batch.by_gate = at::randint(0, 2, {9}, at::kByte);
  }
  DenoiseCounts all;
  const at::Tensor together = denoiser_.RunBatch(batch, &all);
  for (int64_t i = 0; i < 9; ++i) {
    DenoiseCounts alone;
    EXPECT_TRUE(at::equal(denoiser_.RunBatch(Rows(batch, i, 1), &alone), together.narrow(0, i, 1)))
        << "sample " << i;
    EXPECT_TRUE(at::equal(alone.used, all.used.narrow(0, i, 1)));
    EXPECT_TRUE(at::equal(alone.without_expert, all.without_expert.narrow(0, i, 1)));
  }
  EXPECT_TRUE(at::equal(denoiser_.RunBatch(Rows(batch, 3, 4)), together.narrow(0, 3, 4)));
}

TEST_P(DenoiserTest, LargerImagesThanTheTrainingSeesAreComputedToo) {
  denoiser_.Pack();
  const at::Tensor y = denoiser_.RunBatch(Batch(2, 10));
  EXPECT_EQ(y.sizes(), at::IntArrayRef({2, 1, 10, 10}));
  EXPECT_TRUE(y.isfinite().all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(
    Families, DenoiserTest,
    testing::Values(Case{"diffmoe", Family::kDiffMoe},
                    Case{"diffmoe_swiglu_shared", Family::kDiffMoe, Activation::kSwiglu, 1},
                    Case{"dense", Family::kDense}, Case{"token_choice", Family::kTokenChoice},
                    Case{"expert_choice_shared", Family::kExpertChoice, Activation::kGelu, 1}),
    [](const auto& row) { return std::string(row.param.name); });

class ThresholdsTest : public testing::Test {
 protected:
  static ModelConfig Model() {
    ModelConfig model;
    model.image_size = 8;
    model.patch_size = 2;
    model.width = 64;
    model.depth = 2;
    model.heads = 2;
    model.experts = 4;
    return model;
  }
  ThresholdsTest() {
    at::Tensor dense = denoiser_.parameters().dense();
    dense.copy_(at::randn(dense.sizes()).mul(0.1));
  }
  // Experts used by both samples of a call of two.
  std::pair<int64_t, int64_t> Used(const at::Tensor& thresholds, const at::Tensor& by_gate) const {
    DenoiseBatch batch{at::randn({2, 1, 8, 8}), at::rand({2}), at::zeros({2}, at::kLong),
                       thresholds, by_gate};
    DenoiseCounts counts;
    denoiser_.RunBatch(batch, &counts);
    return {counts.used[0][0].item<int64_t>(), counts.used[1][0].item<int64_t>()};
  }
  Denoiser denoiser_{Model(), at::kFloat};
};

TEST_F(ThresholdsTest, EverySampleHasItsOwn) {
  const at::Tensor all = at::zeros({1, 1, 4}), none = at::full({1, 1, 4}, 1.0f);
  EXPECT_EQ(Used(at::cat({all, none}), {}), std::make_pair(int64_t{64}, int64_t{0}));
  EXPECT_EQ(Used(at::cat({none, all}), {}), std::make_pair(int64_t{0}, int64_t{64}));
}

TEST_F(ThresholdsTest, GateAndPredictorAreComparedBySample) {
  // The gate's probabilities add up to one, so at most one of four lies above a half.
  const at::Tensor half = at::full({2, 1, 4}, 0.5f);
  at::Tensor by_gate = at::zeros({2}, at::kByte);
  by_gate[1] = 1;
  EXPECT_LE(Used(half, by_gate).second, 16);
  EXPECT_EQ(Used(at::full({2, 1, 4}, 0.999f), by_gate).second, 0);
}

}  // namespace
}  // namespace diffmoe
