// The layers of a DiT with adaLN-Zero (arXiv 2212.09748) as functions of their weights. b samples
// of S tokens, D features. `conditioning`: [b, D], the SiLU of the time and label embedding.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/kernels/packed_linear.h"
#include "core/spec/training_config.h"

namespace diffmoe {

struct LinearLayer {
  at::Tensor weight, bias;  // [out, in], [out]; bias may be undefined
  // Inference only: used instead when set.
  std::shared_ptr<const PackedLinear> packed = nullptr;

  void Pack() { packed = std::make_shared<PackedLinear>(weight, bias); }
};

struct DitBlock {
  LinearLayer qkv, proj, modulation;
  // The feed-forward half; empty in a MoE block.
  LinearLayer fc1, fc2;        // GELU
  LinearLayer gate, up, down;  // SwiGLU
  Activation activation = Activation::kGelu;
  int64_t heads = 1;  // each of qkv.out / 3 / heads features
};

// The layers that the block has.
std::vector<LinearLayer*> LinearLayersOf(DitBlock& block);

// x: [b, S, D] -> [b, S, D].
at::Tensor Attend(const DitBlock& block, const at::Tensor& x);

// What the attention half hands to a feed-forward layer or to experts.
struct AttendedTokens {
  at::Tensor residual;  // [b, S, D]
  at::Tensor input;     // [b, S, D] normalised and modulated
  at::Tensor gate;      // [b, D] of the feed-forward output
};
AttendedTokens RunAttentionHalf(const DitBlock& block, const at::Tensor& x,
                                const at::Tensor& conditioning);
// A whole dense block, [b, S, D] -> [b, S, D].
at::Tensor RunDenseBlock(const DitBlock& block, const at::Tensor& x,
                         const at::Tensor& conditioning);

// [b, S, D] -> [b, S, out].
at::Tensor RunFinalLayer(const LinearLayer& modulation, const LinearLayer& linear,
                         const at::Tensor& x, const at::Tensor& conditioning);

// sinusoid: [b, F] -> [b, D].
at::Tensor EmbedTime(const LinearLayer& in, const LinearLayer& out, const at::Tensor& sinusoid);

// images: [b, C, H, W] -> [b, S, D]; patch.weight: [D, C, patch, patch].
at::Tensor EmbedPatches(const LinearLayer& patch, const at::Tensor& images);

}  // namespace diffmoe
