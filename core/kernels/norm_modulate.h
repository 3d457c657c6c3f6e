// LayerNorm without affine part, modulated per sample, and the gated residual of adaLN blocks
// (arXiv 2212.09748), each in one pass on the CPU. A row's bits do not depend on the rows beside
// it; sums over a sample's tokens run in ascending order.
#pragma once

#include <ATen/core/Tensor.h>

namespace diffmoe {

// All tensors: fp32 or fp64 on the CPU, of one type. x, out, grad, dx: [B, S, D] contiguous. shift,
// scale, gate: [B, D] with contiguous rows, dshift, dscale, dgate: [B, D] contiguous.

// out = (x - mean) / sqrt(var + 1e-6) * (1 + scale) + shift, mean and variance over D. statistics:
// [B, S, 2] receives mean and 1 / sqrt(var + 1e-6).
void NormModulateForward(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale,
                         at::Tensor& out, at::Tensor& statistics);
void NormModulateBackward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& scale,
                          const at::Tensor& statistics, at::Tensor& dx, at::Tensor& dshift,
                          at::Tensor& dscale);

// Of x + y * gate: dy = grad * gate, dgate = sum over tokens of grad * y.
void AddGatedBackward(const at::Tensor& grad, const at::Tensor& y, const at::Tensor& gate,
                      at::Tensor& dy, at::Tensor& dgate);

}  // namespace diffmoe
