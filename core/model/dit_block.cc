#include "core/model/dit_block.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/silu.h>

#include "core/model/embedding.h"
#include "core/model/fused_ops.h"

namespace diffmoe {
namespace {

at::Tensor Apply(const LinearLayer& layer, const at::Tensor& x) {
  if (layer.packed) return layer.packed->Apply(x);
  return layer.bias.defined() ? at::linear(x, layer.weight, layer.bias)
                              : at::linear(x, layer.weight);
}

at::Tensor FeedForwardHalf(const DitBlock& block, const at::Tensor& x) {
  if (block.activation == Activation::kSwiglu) {
    const at::Tensor active = at::silu(Apply(block.gate, x)).mul(Apply(block.up, x));
    return Apply(block.down, active);
  }
  return Apply(block.fc2, Gelu(Apply(block.fc1, x)));
}

}  // namespace

std::vector<LinearLayer*> LinearLayersOf(DitBlock& block) {
  std::vector<LinearLayer*> layers;
  for (LinearLayer* layer : {&block.qkv, &block.proj, &block.modulation, &block.fc1, &block.fc2,
                             &block.gate, &block.up, &block.down}) {
    if (layer->weight.defined()) layers.push_back(layer);
  }
  return layers;
}

at::Tensor Attend(const DitBlock& block, const at::Tensor& x) {
  return Apply(block.proj, SelfAttention(Apply(block.qkv, x), block.heads));
}

AttendedTokens RunAttentionHalf(const DitBlock& block, const at::Tensor& x,
                                const at::Tensor& conditioning) {
  const auto m = Apply(block.modulation, conditioning).chunk(6, -1);
  const at::Tensor attended = AddGated(x, Attend(block, NormModulate(x, m[0], m[1])), m[2]);
  return {attended, NormModulate(attended, m[3], m[4]), m[5]};
}

at::Tensor RunDenseBlock(const DitBlock& block, const at::Tensor& x,
                         const at::Tensor& conditioning) {
  const AttendedTokens tokens = RunAttentionHalf(block, x, conditioning);
  return AddGated(tokens.residual, FeedForwardHalf(block, tokens.input), tokens.gate);
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
  const at::Tensor rows = Patchify(images, patch.weight.size(-1));
  if (patch.packed) return patch.packed->Apply(rows);
  return at::linear(rows, patch.weight.flatten(1), patch.bias);
}

}  // namespace diffmoe
