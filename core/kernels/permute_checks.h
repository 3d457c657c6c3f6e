// Checks of the operators' arguments, shared by the CPU and the CUDA implementation.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>

namespace diffmoe {

inline void CheckGather(const at::Tensor& rows, const at::Tensor& ids) {
  TORCH_CHECK(rows.dim() == 2, "gather_rows: rows has ", rows.dim(), " dimensions, expected 2");
  TORCH_CHECK(ids.dim() == 1, "gather_rows: ids has ", ids.dim(), " dimensions, expected 1");
  TORCH_CHECK(ids.scalar_type() == at::kLong, "gather_rows: ids is ", ids.scalar_type(),
              ", expected int64");
  TORCH_CHECK(ids.device() == rows.device(), "gather_rows: ids is on ", ids.device(), ", rows on ",
              rows.device());
}

inline void CheckCombine(const at::Tensor& rows, const at::Tensor& index,
                         const std::optional<at::Tensor>& weights) {
  TORCH_CHECK(rows.dim() == 2, "combine_rows: rows has ", rows.dim(), " dimensions, expected 2");
  TORCH_CHECK(index.dim() == 2, "combine_rows: index has ", index.dim(), " dimensions, expected 2");
  TORCH_CHECK(rows.scalar_type() == at::kFloat || rows.scalar_type() == at::kDouble,
              "combine_rows: rows is ", rows.scalar_type(), ", expected fp32 or fp64");
  TORCH_CHECK(index.scalar_type() == at::kInt, "combine_rows: index is ", index.scalar_type(),
              ", expected int32");
  TORCH_CHECK(index.device() == rows.device(), "combine_rows: index is on ", index.device(),
              ", rows on ", rows.device());
  if (!weights.has_value()) return;
  TORCH_CHECK(weights->sizes() == index.sizes(), "combine_rows: weights is ", weights->sizes(),
              ", expected ", index.sizes());
  TORCH_CHECK(weights->scalar_type() == rows.scalar_type(), "combine_rows: weights is ",
              weights->scalar_type(), ", rows is ", rows.scalar_type());
  TORCH_CHECK(weights->device() == rows.device(), "combine_rows: weights is on ", weights->device(),
              ", rows on ", rows.device());
}

}  // namespace diffmoe
