#include "core/model/dit_block.h"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>

#include "core/model/embedding.h"

namespace diffmoe {
namespace {

at::Tensor Apply(const LinearLayer& layer, const at::Tensor& x) {
  return at::linear(x, layer.weight, layer.bias);
}

// LayerNorm without affine, then x * (1 + scale) + shift. x: [b, S, D]; shift, scale: [b, D].
at::Tensor NormModulate(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale) {
  const at::Tensor normed = at::layer_norm(x, {x.size(-1)}, {}, {}, 1e-6);
  return at::addcmul(shift.unsqueeze(1), normed, scale.add(1).unsqueeze(1));
}

at::Tensor FeedForwardHalf(const DitBlock& block, const at::Tensor& x) {
  if (block.activation == Activation::kSwiglu) {
    const at::Tensor active = at::silu(at::linear(x, block.gate)).mul(at::linear(x, block.up));
    return at::linear(active, block.down);
  }
  return Apply(block.fc2, at::gelu(Apply(block.fc1, x), "tanh"));
}

}  // namespace

at::Tensor Attend(const DitBlock& block, const at::Tensor& x) {
  const at::Tensor qkv = Apply(block.qkv, x);
  const int64_t batch = x.size(0), tokens = x.size(1), width = qkv.size(2) / 3;
  const at::Tensor parts =
      qkv.view({batch, tokens, 3, block.heads, width / block.heads}).permute({2, 0, 3, 1, 4});
  const at::Tensor mixed =
      at::scaled_dot_product_attention(parts.select(0, 0), parts.select(0, 1), parts.select(0, 2));
  return Apply(block.proj, mixed.transpose(1, 2).reshape({batch, tokens, width}));
}

AttendedTokens RunAttentionHalf(const DitBlock& block, const at::Tensor& x,
                                const at::Tensor& conditioning) {
  const auto m = Apply(block.modulation, conditioning).chunk(6, -1);
  const at::Tensor attended = AddToResidual(x, Attend(block, NormModulate(x, m[0], m[1])), m[2]);
  return {attended, NormModulate(attended, m[3], m[4]), m[5]};
}

at::Tensor AddToResidual(const at::Tensor& residual, const at::Tensor& y, const at::Tensor& gate) {
  return at::addcmul(residual, y, gate.unsqueeze(1));
}

at::Tensor RunDenseBlock(const DitBlock& block, const at::Tensor& x,
                         const at::Tensor& conditioning) {
  const AttendedTokens tokens = RunAttentionHalf(block, x, conditioning);
  return AddToResidual(tokens.residual, FeedForwardHalf(block, tokens.input), tokens.gate);
}

at::Tensor RunFinalLayer(const LinearLayer& modulation, const LinearLayer& linear,
                         const at::Tensor& x, const at::Tensor& conditioning) {
  const auto m = Apply(modulation, conditioning).chunk(2, -1);
  return Apply(linear, NormModulate(x, m[0], m[1]));
}

at::Tensor EmbedTime(const LinearLayer& in, const LinearLayer& out, const at::Tensor& sinusoid) {
  return Apply(out, at::silu(Apply(in, sinusoid)));
}

at::Tensor EmbedPatches(const LinearLayer& patch, const at::Tensor& images) {
  return at::linear(Patchify(images, patch.weight.size(-1)), patch.weight.flatten(1), patch.bias);
}

}  // namespace diffmoe
