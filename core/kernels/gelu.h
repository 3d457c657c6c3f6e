// GELU in its tanh form, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), on the CPU. An
// element's bits depend on that element alone, not on its place or on the number of elements.
#pragma once

#include <ATen/core/Tensor.h>

namespace diffmoe {

// in, out: the same shape, contiguous; out may be in. fp32 and fp64; other types go to ATen. The
// fp32 result is off by less than 2^-22 |x| (measured against fp64: 2^-23).
void GeluTanh(const at::Tensor& in, at::Tensor& out);

// out = grad * GELU'(in); out may be grad. Types, shapes as above; error below 2^-21 |grad|.
void GeluTanhBackward(const at::Tensor& grad, const at::Tensor& in, at::Tensor& out);

}  // namespace diffmoe
