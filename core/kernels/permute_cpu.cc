#include "core/kernels/permute_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstring>

#include "core/kernels/permute_checks.h"

namespace diffmoe {
namespace {

template <typename Real>
void AddScaled(Real* __restrict out, const Real* __restrict row, Real weight, int64_t width) {
  for (int64_t d = 0; d < width; ++d) out[d] += weight * row[d];
}

template <typename Real>
void Combine(const Real* rows, int64_t row_count, const int32_t* index, const Real* weights,
             int64_t tokens, int64_t experts, int64_t width, Real* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t row = index[t * experts + e];
      if (row < 0) continue;
      TORCH_CHECK_INDEX(row < row_count, "combine_rows: index[", t, ", ", e, "] is ", row,
                        ", rows has ", row_count);
      const Real weight = weights == nullptr ? Real{1} : weights[t * experts + e];
      AddScaled(out + t * width, rows + row * width, weight, width);
    }
  }
}

template <typename Real>
void CombineTyped(const at::Tensor& rows, const at::Tensor& index,
                  const std::optional<at::Tensor>& weights, at::Tensor& out) {
  Combine<Real>(rows.const_data_ptr<Real>(), rows.size(0), index.const_data_ptr<int32_t>(),
                weights.has_value() ? weights->const_data_ptr<Real>() : nullptr, index.size(0),
                index.size(1), rows.size(1), out.mutable_data_ptr<Real>());
}

}  // namespace

at::Tensor GatherRowsCpu(const at::Tensor& rows, const at::Tensor& ids) {
  CheckGather(rows, ids);
  const at::Tensor source = rows.contiguous(), order = ids.contiguous();
  at::Tensor out = at::empty({ids.size(0), rows.size(1)}, rows.options());
  const size_t row_bytes = static_cast<size_t>(rows.size(1)) * rows.element_size();
  const int64_t* id = order.const_data_ptr<int64_t>();
  const auto* in = static_cast<const char*>(source.const_data_ptr());
  auto* copy = static_cast<char*>(out.mutable_data_ptr());
  for (int64_t k = 0; k < ids.size(0); ++k) {
    TORCH_CHECK_INDEX(id[k] >= 0 && id[k] < rows.size(0), "gather_rows: ids[", k, "] is ", id[k],
                      ", rows has ", rows.size(0));
    if (row_bytes > 0) std::memcpy(copy + k * row_bytes, in + id[k] * row_bytes, row_bytes);
  }
  return out;
}

at::Tensor CombineRowsCpu(const at::Tensor& rows, const at::Tensor& index,
                          const std::optional<at::Tensor>& weights) {
  CheckCombine(rows, index, weights);
  at::Tensor out = at::zeros({index.size(0), rows.size(1)}, rows.options());
  const at::Tensor source = rows.contiguous(), places = index.contiguous();
  std::optional<at::Tensor> factors;
  if (weights.has_value()) factors = weights->contiguous();
  if (rows.scalar_type() == at::kFloat) {
    CombineTyped<float>(source, places, factors, out);
  } else {
    CombineTyped<double>(source, places, factors, out);
  }
  return out;
}

}  // namespace diffmoe
