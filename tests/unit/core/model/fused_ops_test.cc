// The fused operations against ATen's in fp64, forward and backward, and the promise that a
// sample's bits do not depend on the samples beside it.
#include "core/model/fused_ops.h"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <string>
#include <vector>

namespace diffmoe {
namespace {

using Operation = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

struct Case {
  std::string name;
  Operation fused, reference;
  // Inputs of a batch: the first dimension counts samples.
  std::function<std::vector<at::Tensor>(int64_t batch, int64_t tokens, int64_t width,
                                        at::ScalarType type)>
      inputs;
};

constexpr int64_t kHeads = 3;

at::Tensor AttentionByAten(const std::vector<at::Tensor>& in) {
  const int64_t batch = in[0].size(0), tokens = in[0].size(1), width = in[0].size(2) / 3;
  const at::Tensor parts =
      in[0].view({batch, tokens, 3, kHeads, width / kHeads}).permute({2, 0, 3, 1, 4});
  return at::scaled_dot_product_attention(parts.select(0, 0), parts.select(0, 1),
                                          parts.select(0, 2))
      .transpose(1, 2)
      .reshape({batch, tokens, width});
}

std::vector<Case> Cases() {
  const auto random = [](at::IntArrayRef sizes, at::ScalarType type) {
    return at::randn(sizes, at::TensorOptions().dtype(type));
  };
  return {
      {"NormModulate", [](const auto& in) { return NormModulate(in[0], in[1], in[2]); },
       [](const auto& in) {
         return at::addcmul(in[1].unsqueeze(1),
                            at::layer_norm(in[0], {in[0].size(-1)}, {}, {}, 1e-6),
                            in[2].add(1).unsqueeze(1));
       },
       [=](int64_t b, int64_t s, int64_t d, at::ScalarType t) {
         // Slices of one modulation, as the blocks have them: rows are apart.
         const at::Tensor modulation = random({b, 3 * d}, t);
         return std::vector<at::Tensor>{random({b, s, d}, t).add(0.5), modulation.narrow(1, 0, d),
                                        modulation.narrow(1, d, d)};
       }},
      {"AddGated", [](const auto& in) { return AddGated(in[0], in[1], in[2]); },
       [](const auto& in) { return at::addcmul(in[0], in[1], in[2].unsqueeze(1)); },
       [=](int64_t b, int64_t s, int64_t d, at::ScalarType t) {
         return std::vector<at::Tensor>{random({b, s, d}, t), random({b, s, d}, t),
                                        random({b, 2 * d}, t).narrow(1, d, d)};
       }},
      {"Gelu", [](const auto& in) { return Gelu(in[0]); },
       [](const auto& in) { return at::gelu(in[0], "tanh"); },
       [=](int64_t b, int64_t s, int64_t d, at::ScalarType t) {
         return std::vector<at::Tensor>{random({b, s, d}, t)};
       }},
      {"SelfAttention", [](const auto& in) { return SelfAttention(in[0], kHeads); },
       AttentionByAten,
       [=](int64_t b, int64_t s, int64_t d, at::ScalarType t) {
         return std::vector<at::Tensor>{random({b, s, 3 * d}, t)};
       }},
  };
}

// The output and the gradients of all inputs.
std::vector<at::Tensor> Results(const Operation& operation, const std::vector<at::Tensor>& inputs,
                                const at::Tensor& grad) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.detach().requires_grad_(true));
  const at::Tensor out = operation(leaves);
  std::vector<at::Tensor> all = torch::autograd::grad({out}, leaves, {grad});
  all.insert(all.begin(), out.detach());
  return all;
}

class FusedOps : public ::testing::TestWithParam<Case> {};

TEST_P(FusedOps, EqualAtenInDoublePrecision) {
  const Case& test = GetParam();
  // Narrower than a vector, not a multiple of one, and the widths of real models; more tokens than
  // a block of queries.
  const int64_t shapes[][3] = {{1, 1, 3}, {2, 7, 12}, {3, 50, 36}, {2, 64, 192}, {1, 150, 96}};
  for (const auto& [batch, tokens, width] : shapes) {
    const auto inputs = test.inputs(batch, tokens, width, at::kDouble);
    const at::Tensor grad = at::randn({batch, tokens, width}, at::kDouble);
    const auto got = Results(test.fused, inputs, grad),
               want = Results(test.reference, inputs, grad);
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(at::allclose(got[i], want[i], 1e-12, 1e-12))
          << "result " << i << " of " << batch << " x " << tokens << " x " << width << " is off by "
          << got[i].sub(want[i]).abs().max().item<double>();
    }
  }
}

TEST_P(FusedOps, ASampleAloneHasTheBitsItHasInABatch) {
  const Case& test = GetParam();
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const int64_t batch = 5, tokens = 70, width = 48;
    const auto inputs = test.inputs(batch, tokens, width, type);
    const at::Tensor grad = at::randn({batch, tokens, width}, at::TensorOptions().dtype(type));
    const auto together = Results(test.fused, inputs, grad);
    for (int64_t sample = 0; sample < batch; ++sample) {
      std::vector<at::Tensor> one;
      for (const at::Tensor& input : inputs) one.push_back(input.narrow(0, sample, 1));
      const auto alone = Results(test.fused, one, grad.narrow(0, sample, 1));
      for (size_t i = 0; i < alone.size(); ++i) {
        EXPECT_TRUE(alone[i].equal(together[i].narrow(0, sample, 1)))
            << "result " << i << " of sample " << sample;
      }
    }
  }
}

TEST_P(FusedOps, OtherTypesGoToAten) {
  const Case& test = GetParam();
  const auto inputs = test.inputs(2, 8, 12, at::kBFloat16);
  EXPECT_TRUE(test.fused(inputs).equal(test.reference(inputs)));
}

INSTANTIATE_TEST_SUITE_P(Operations, FusedOps, ::testing::ValuesIn(Cases()),
                         [](const auto& row) { return row.param.name; });

TEST(SelfAttention, LargeScoresDoNotOverflow) {
  const at::Tensor qkv = at::randn({1, 10, 3 * 12}).mul(1e3);
  const at::Tensor out = SelfAttention(qkv, kHeads);
  EXPECT_TRUE(at::allclose(out, AttentionByAten({qkv}), 1e-4, 1e-2));
  EXPECT_TRUE(out.isfinite().all().item<bool>());
}

TEST(SelfAttention, RefusesAWidthThatTheHeadsDoNotDivide) {
  EXPECT_THROW(SelfAttention(at::randn({1, 4, 3 * 10}), 3), c10::Error);
}

}  // namespace
}  // namespace diffmoe
