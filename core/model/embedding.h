// Embeddings of a DiT: time, position, patches. Names follow the DiT paper (arXiv 2212.09748).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace diffmoe {

// t: [B] fp32 -> [B, dim] fp32: cosines, then sines, of t at frequencies 10000^(-i / (dim/2)); an
// odd dim ends with a zero.
at::Tensor TimeSinusoid(const at::Tensor& t, int64_t dim);

// [side * side, width] fp64: PositionValues as a tensor.
at::Tensor PositionTable(int64_t side, int64_t width);

// images: [B, C, H, W] -> [B, S, C * patch * patch], patches in row-major order, (channel, row,
// column) inside a patch.
at::Tensor Patchify(const at::Tensor& images, int64_t patch);

// tokens: [B, S, patch * patch * C] with (row, column, channel) inside a patch -> [B, C, H, W].
at::Tensor Unpatchify(const at::Tensor& tokens, int64_t patch, int64_t channels);

}  // namespace diffmoe
