// Row movement of a MoE layer as dispatcher operators, so that one call runs on the CPU or, once
// the CUDA plugin is loaded, on a GPU:
//   diffmoe::gather_rows(Tensor rows, Tensor ids) -> Tensor
//   diffmoe::combine_rows(Tensor rows, Tensor index, Tensor? weights) -> Tensor
// Sums run in ascending expert order without atomics and without fused multiply-add: CPU and CUDA
// give the same bits. Wrong shapes, dtypes, devices and (on the CPU) ids throw c10::Error. Without
// autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace diffmoe {

// rows: [T, D], any dtype; ids: [K] int64, values in [0, T). Returns [K, D], row k = rows[ids[k]].
at::Tensor GatherRows(const at::Tensor& rows, const at::Tensor& ids);

// rows: [K, D] fp32 or fp64; index: [T, E] int32, the row that expert e made for token t, or -1;
// weights: [T, E] of the dtype of rows, or nothing for 1. Returns [T, D]: out[t] = sum over e,
// ascending, of weights[t, e] * rows[index[t, e]].
at::Tensor CombineRows(const at::Tensor& rows, const at::Tensor& index,
                       const std::optional<at::Tensor>& weights);

}  // namespace diffmoe
