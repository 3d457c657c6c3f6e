// The pieces of a DiT block that are not matrix products, each one differentiable operation. On CPU
// tensors of fp32 and fp64 they run fused kernels (core/kernels), on others ATen's. A row's bits do
// not depend on the samples beside it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace diffmoe {

// LayerNorm over D without affine part (epsilon 1e-6), then x * (1 + scale) + shift. x: [b, S, D];
// shift, scale: [b, D] -> [b, S, D].
at::Tensor NormModulate(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale);

// x + y * gate. x, y: [b, S, D]; gate: [b, D].
at::Tensor AddGated(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate);

// GELU in its tanh form, element by element.
at::Tensor Gelu(const at::Tensor& x);

// softmax(Q K^T / sqrt(d)) V of every sample and head. qkv: [b, S, 3 D]: queries, keys and values,
// each head after head -> [b, S, D], heads side by side.
at::Tensor SelfAttention(const at::Tensor& qkv, int64_t heads);

}  // namespace diffmoe
