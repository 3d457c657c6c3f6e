// The parameters that one rank holds, as views into two flat buffers: `dense` (everything
// replicated) and `experts` (the experts that this rank holds). Flat buffers make the gradient sum,
// AdamW, the average and checkpoints single passes.
//
// Layout: parameters stand in canonical order, each padded to kAlignment elements, so an offset in
// `dense` doesn't depend on the number of ranks. `dense` is padded to whole chunks per rank; rank r
// owns the optimiser state of the r-th equal slice.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/model/expert_placement.h"
#include "core/model/parameter_list.h"

namespace diffmoe {

// A parameter's place in a flat buffer.
struct ParameterPlace {
  const ParameterInfo* info = nullptr;
  int64_t offset = 0;  // elements
};

// A run of elements of the expert buffer whose optimiser state this rank keeps.
struct OwnedRun {
  ParameterPlace place;
  int64_t state_offset = 0;  // in the buffers of owned optimiser state
};

// Where every parameter lies on one rank. Torch-free in substance; a pure function of the model and
// the placement of its experts.
class ParameterLayout {
 public:
  static constexpr int64_t kAlignment = 16;
  static constexpr int64_t kChunk = 4096;

  // Experts are split over all ranks unless `expert_parallel` says over how many; `local_rows`: see
  // ExpertPlacement.
  ParameterLayout(const ModelConfig& model, int rank, int world_size, int64_t expert_parallel = 0,
                  bool local_rows = false);
  ParameterLayout(const ParameterLayout&) = delete;
  ParameterLayout& operator=(const ParameterLayout&) = delete;

  const std::vector<ParameterInfo>& infos() const { return infos_; }
  const std::vector<ParameterPlace>& dense() const { return dense_; }
  const std::vector<ParameterPlace>& experts() const { return experts_; }
  int64_t dense_elements() const { return dense_elements_; }  // padded
  int64_t expert_elements() const { return expert_elements_; }
  int64_t slice_elements() const { return dense_elements_ / world_size(); }
  int64_t slice_begin() const { return rank() * slice_elements(); }
  // The parameters of owned experts, in the order of `experts()`.
  const std::vector<OwnedRun>& owned_experts() const { return owned_; }
  int64_t owned_elements() const { return owned_elements_; }
  const ExpertPlacement& placement() const { return placement_; }
  int rank() const { return placement_.rank(); }
  int world_size() const { return placement_.world_size(); }

 private:
  std::vector<ParameterInfo> infos_;
  ExpertPlacement placement_;
  std::vector<ParameterPlace> dense_, experts_;
  std::vector<OwnedRun> owned_;
  int64_t dense_elements_ = 0, expert_elements_ = 0, owned_elements_ = 0;
};

// Tensors over the layout. `dense` and `experts` are flat; `at(name)` is a view with the
// parameter's shape.
class Parameters {
 public:
  // Allocates zeros of `dtype`: fp32, fp64 in parity tests, bf16 for copies to compute with.
  Parameters(const ParameterLayout& layout, at::ScalarType dtype);

  const ParameterLayout& layout() const { return *layout_; }
  const at::Tensor& dense() const { return dense_; }
  const at::Tensor& experts() const { return experts_; }
  // Throws std::out_of_range for a parameter that this rank doesn't hold.
  const at::Tensor& at(const std::string& name) const;
  bool contains(const std::string& name) const { return views_.count(name) > 0; }

  // Fills by the initialisers, from Philox keyed by (seed, parameter): the same on every rank and
  // world size.
  void Initialize(uint64_t seed);
  // Makes the dense views leaves that record gradients.
  void RequireGradients();

 private:
  const ParameterLayout* layout_;
  at::Tensor dense_, experts_;
  std::map<std::string, at::Tensor> views_;
};

}  // namespace diffmoe
