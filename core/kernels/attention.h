// Attention of short sequences on the CPU, one call for all samples: softmax(Q K^T / sqrt(d)) V per
// sample and head. Scores never leave the cache: they are made for 64 queries at a time, and again
// in the backward pass. Every (sample, head) is computed by itself, so a sample's bits do not
// depend on the samples beside it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace diffmoe {

// qkv: [B, S, 3 D] contiguous fp32 or fp64, of D = heads * d: queries, keys, values, each head
// after head. out: [B, S, D] contiguous, heads side by side. softmax: [B, heads, 2, S], for the
// backward pass: each query's largest score, and 1 / the sum of its exponentials relative to it.
void AttentionForward(const at::Tensor& qkv, int64_t heads, at::Tensor& out, at::Tensor& softmax);

// grad, out: [B, S, D]; grad_qkv: [B, S, 3 D] is written. All contiguous, types as above.
void AttentionBackward(const at::Tensor& grad, const at::Tensor& qkv, const at::Tensor& out,
                       const at::Tensor& softmax, int64_t heads, at::Tensor& grad_qkv);

}  // namespace diffmoe
