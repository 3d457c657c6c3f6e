#include "core/kernels/permute_ops.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "core/kernels/permute_cpu.h"

// The CUDA implementations are registered by the plugin when it is loaded.
TORCH_LIBRARY(diffmoe, library) {
  library.def("gather_rows(Tensor rows, Tensor ids) -> Tensor");
  library.def("combine_rows(Tensor rows, Tensor index, Tensor? weights) -> Tensor");
}

TORCH_LIBRARY_IMPL(diffmoe, CPU, library) {
  library.impl("gather_rows", diffmoe::GatherRowsCpu);
  library.impl("combine_rows", diffmoe::CombineRowsCpu);
}

namespace diffmoe {

at::Tensor GatherRows(const at::Tensor& rows, const at::Tensor& ids) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("diffmoe::gather_rows", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&)>();
  return op.call(rows, ids);
}

at::Tensor CombineRows(const at::Tensor& rows, const at::Tensor& index,
                       const std::optional<at::Tensor>& weights) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("diffmoe::combine_rows", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&,
                                               const std::optional<at::Tensor>&)>();
  return op.call(rows, index, weights);
}

}  // namespace diffmoe
