// Registers the CUDA implementations of the operators in permute_ops.h. Part of the plugin.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "core/kernels/permute_checks.h"
#include "core/kernels/permute_cuda.h"

namespace diffmoe {
namespace {

at::Tensor GatherRowsCuda(const at::Tensor& rows, const at::Tensor& ids) {
  CheckGather(rows, ids);
  const c10::cuda::CUDAGuard guard(rows.device());
  const at::Tensor source = rows.contiguous(), order = ids.contiguous();
  at::Tensor out = at::empty({ids.size(0), rows.size(1)}, rows.options());
  C10_CUDA_CHECK(LaunchGatherRows(source.const_data_ptr(), rows.size(0),
                                  order.const_data_ptr<int64_t>(), ids.size(0),
                                  rows.size(1) * static_cast<int64_t>(rows.element_size()),
                                  out.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
  return out;
}

template <typename Real>
void Combine(const at::Tensor& rows, const at::Tensor& index,
             const std::optional<at::Tensor>& weights, at::Tensor& out) {
  C10_CUDA_CHECK(LaunchCombineRows<Real>(
      rows.const_data_ptr<Real>(), rows.size(0), index.const_data_ptr<int32_t>(),
      weights.has_value() ? weights->const_data_ptr<Real>() : nullptr, index.size(0), index.size(1),
      rows.size(1), out.mutable_data_ptr<Real>(), c10::cuda::getCurrentCUDAStream()));
}

at::Tensor CombineRowsCuda(const at::Tensor& rows, const at::Tensor& index,
                           const std::optional<at::Tensor>& weights) {
  CheckCombine(rows, index, weights);
  const c10::cuda::CUDAGuard guard(rows.device());
  const at::Tensor source = rows.contiguous(), places = index.contiguous();
  std::optional<at::Tensor> factors;
  if (weights.has_value()) factors = weights->contiguous();
  at::Tensor out = at::empty({index.size(0), rows.size(1)}, rows.options());
  if (rows.scalar_type() == at::kFloat) {
    Combine<float>(source, places, factors, out);
  } else {
    Combine<double>(source, places, factors, out);
  }
  return out;
}

}  // namespace
}  // namespace diffmoe

TORCH_LIBRARY_IMPL(diffmoe, CUDA, library) {
  library.impl("gather_rows", diffmoe::GatherRowsCuda);
  library.impl("combine_rows", diffmoe::CombineRowsCuda);
}
