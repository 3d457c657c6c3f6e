// The parameters that one rank holds, as views into two flat buffers: `dense` (everything
// replicated) and `experts` (the experts that this rank owns). Flat buffers make the gradient sum,
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

#include "core/model/parameter_list.h"

namespace diffmoe {

// A parameter's place in a flat buffer.
struct ParameterPlace {
  const ParameterInfo* info = nullptr;
  int64_t offset = 0;  // elements
};

// Where every parameter lies on one rank. Torch-free in substance; pure function of (model, rank,
// world size).
class ParameterLayout {
 public:
  static constexpr int64_t kAlignment = 16;
  static constexpr int64_t kChunk = 4096;

  ParameterLayout(const ModelConfig& model, int rank, int world_size);
  ParameterLayout(const ParameterLayout&) = delete;
  ParameterLayout& operator=(const ParameterLayout&) = delete;

  const std::vector<ParameterInfo>& infos() const { return infos_; }
  const std::vector<ParameterPlace>& dense() const { return dense_; }
  const std::vector<ParameterPlace>& experts() const { return experts_; }
  int64_t dense_elements() const { return dense_elements_; }  // padded
  int64_t expert_elements() const { return expert_elements_; }
  int64_t slice_elements() const { return dense_elements_ / world_size_; }
  int64_t slice_begin() const { return rank_ * slice_elements(); }
  // Experts [first, first + count) of every layer live here.
  int64_t first_expert() const { return first_expert_; }
  int64_t expert_count() const { return expert_count_; }
  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

 private:
  std::vector<ParameterInfo> infos_;
  std::vector<ParameterPlace> dense_, experts_;
  int64_t dense_elements_ = 0, expert_elements_ = 0;
  int64_t first_expert_ = 0, expert_count_ = 0;
  int rank_, world_size_;
};

// Tensors over the layout. `dense` and `experts` are flat; `at(name)` is a view with the
// parameter's shape.
class Parameters {
 public:
  // Allocates zeros of `dtype` (fp32, or fp64 in parity tests).
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
