#include "core/model/parameters.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <stdexcept>

#include "core/base/philox.h"

namespace diffmoe {
namespace {

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Values of one parameter; `index` is its place in the canonical list.
std::vector<float> InitialValues(const ParameterInfo& info, uint64_t seed, uint64_t index) {
  std::vector<float> values(static_cast<size_t>(info.elements()), 0.0f);
  const RandomStream stream(seed, RandomUse::kWeights, index, 0);
  if (info.initializer == Initializer::kNormal) {
    stream.Normal(values);
    for (float& value : values) value *= static_cast<float>(info.standard_deviation);
  } else if (info.initializer == Initializer::kXavierUniform) {
    const float bound = std::sqrt(6.0f / static_cast<float>(info.fan_in + info.fan_out));
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t word = stream.Block(static_cast<uint32_t>(i / 4))[i % 4];
      values[i] = (static_cast<float>(word >> 8) * 0x1p-23f - 1.0f) * bound;
    }
  }
  return values;
}

}  // namespace

ParameterLayout::ParameterLayout(const ModelConfig& model, int rank, int world_size,
                                 int64_t expert_parallel, bool local_rows)
    : infos_(DescribeParameters(model)),
      placement_(model.HasExperts() ? model.experts : 0, rank, world_size,
                 expert_parallel > 0 ? expert_parallel : world_size, local_rows) {
  const ExpertRange held = placement_.held(), owned = placement_.owned();
  for (const ParameterInfo& info : infos_) {
    const int64_t padded = RoundUp(info.elements(), kAlignment);
    if (info.kind != ParameterKind::kExpert) {
      dense_.push_back({&info, dense_elements_});
      dense_elements_ += padded;
    } else if (held.contains(info.expert)) {
      experts_.push_back({&info, expert_elements_});
      if (owned.contains(info.expert)) {
        owned_.push_back({experts_.back(), owned_elements_});
        owned_elements_ += padded;
      }
      expert_elements_ += padded;
    }
  }
  dense_elements_ = RoundUp(dense_elements_, kChunk * world_size);
}

Parameters::Parameters(const ParameterLayout& layout, at::ScalarType dtype)
    : layout_(&layout),
      dense_(at::zeros({layout.dense_elements()}, at::TensorOptions().dtype(dtype))),
      experts_(at::zeros({layout.expert_elements()}, at::TensorOptions().dtype(dtype))) {
  for (const ParameterPlace& place : layout.dense()) {
    views_[place.info->name] =
        dense_.narrow(0, place.offset, place.info->elements()).view(place.info->shape);
  }
  for (const ParameterPlace& place : layout.experts()) {
    views_[place.info->name] =
        experts_.narrow(0, place.offset, place.info->elements()).view(place.info->shape);
  }
}

const at::Tensor& Parameters::at(const std::string& name) const {
  const auto found = views_.find(name);
  if (found == views_.end()) throw std::out_of_range("this rank holds no parameter " + name);
  return found->second;
}

void Parameters::Initialize(uint64_t seed) {
  for (size_t index = 0; index < layout_->infos().size(); ++index) {
    const ParameterInfo& info = layout_->infos()[index];
    if (!contains(info.name)) continue;
    std::vector<float> values = InitialValues(info, seed, index);
    at::Tensor view = at(info.name).detach();
    view.copy_(at::from_blob(values.data(), view.sizes(), at::TensorOptions().dtype(at::kFloat)));
  }
}

void Parameters::RequireGradients() {
  for (const ParameterPlace& place : layout_->dense()) {
    at::Tensor& view = views_[place.info->name];
    view = view.detach();
    view.requires_grad_(true);
  }
}

}  // namespace diffmoe
