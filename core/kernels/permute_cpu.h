// CPU implementations of the operators in permute_ops.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace diffmoe {

at::Tensor GatherRowsCpu(const at::Tensor& rows, const at::Tensor& ids);
at::Tensor CombineRowsCpu(const at::Tensor& rows, const at::Tensor& index,
                          const std::optional<at::Tensor>& weights);

}  // namespace diffmoe
