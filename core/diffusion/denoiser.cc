#include "core/diffusion/denoiser.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <stdexcept>

#include "core/model/embedding.h"

namespace diffmoe {
namespace {

// mask: [n * tokens, E] uint8 -> column `layer` of the counts.
void CountUse(const at::Tensor& mask, int64_t layer, DenoiseCounts* counts) {
  const int64_t samples = counts->used.size(0), layers = counts->used.size(1);
  const int64_t experts = mask.size(1), tokens = mask.size(0) / samples;
  const uint8_t* taken = mask.const_data_ptr<uint8_t>();
  int64_t* used = counts->used.data_ptr<int64_t>() + layer;
  int64_t* without = counts->without_expert.data_ptr<int64_t>() + layer;
  for (int64_t i = 0; i < samples * tokens; ++i) {
    int64_t experts_used = 0;
    for (int64_t e = 0; e < experts; ++e) experts_used += taken[i * experts + e];
    used[i / tokens * layers] += experts_used;
    without[i / tokens * layers] += experts_used == 0 ? 1 : 0;
  }
}

}  // namespace

Denoiser::Denoiser(const ModelConfig& model, at::ScalarType dtype, const MoeOptions& options)
    : model_(model),
      collectives_(MakeLocalCollectives()),
      layout_(model, 0, 1),
      parameters_(layout_, dtype),
      segments_(model, parameters_) {
  for (int64_t i = 0; i < segments_.moe_layers(); ++i) {
    layers_.push_back(std::make_unique<MoeLayer>(model, segments_.moe_block(i), parameters_,
                                                 parameters_, options, *collectives_));
  }
}

void Denoiser::SetThresholds(const std::vector<std::vector<float>>& thresholds) {
  if (thresholds.size() != layers_.size())
    throw std::invalid_argument("one threshold vector per MoE layer is needed");
  for (size_t l = 0; l < layers_.size(); ++l) {
    at::Tensor values = at::empty({static_cast<int64_t>(thresholds[l].size())},
                                  at::TensorOptions().dtype(at::kFloat));
    std::copy(thresholds[l].begin(), thresholds[l].end(), values.data_ptr<float>());
    layers_[l]->SetThreshold(values, true);
  }
}

void Denoiser::Pack() {
  segments_.Pack();
  for (const auto& layer : layers_) layer->Pack();
}

at::Tensor Denoiser::RunBatch(const DenoiseBatch& batch, DenoiseCounts* counts) const {
  at::NoGradGuard no_grad;
  const at::ScalarType dtype = parameters_.dense().scalar_type();
  const UnitInput input{batch.x.to(dtype), TimeSinusoid(batch.model_time, 256).to(dtype),
                        batch.labels};
  const int64_t samples = batch.x.size(0), layers = moe_layer_count();
  if (counts != nullptr) {
    counts->used = at::zeros({samples, layers}, at::TensorOptions().dtype(at::kLong));
    counts->without_expert = at::zeros_like(counts->used);
  }
  if (layers == 0) return segments_.Dense(input);
  SegmentState state = segments_.First(input);
  for (int64_t l = 0;; ++l) {
    const MoeLayer& layer = moe_layer(l);
    const at::Tensor tokens = state.moe_input.reshape({-1, model_.width});
    const MoeLayer::Inferred inferred = layer.InferSamples(
        tokens, layer.Route(tokens), tokens.size(0) / samples,
        batch.thresholds.defined() ? batch.thresholds.select(1, l).contiguous() : at::Tensor(),
        batch.by_gate);
    if (counts != nullptr) CountUse(inferred.mask, l, counts);
    const at::Tensor y = inferred.y.view(state.moe_input.sizes());
    if (l + 1 == layers) return segments_.Last(state, y);
    state = segments_.Next(l + 1, state, y);
  }
}

at::Tensor Denoiser::Run(const at::Tensor& x, const at::Tensor& model_time,
                         const at::Tensor& labels, CapacityCounts* counts) const {
  at::NoGradGuard no_grad;
  const at::ScalarType dtype = parameters_.dense().scalar_type();
  const UnitInput input{x.to(dtype), TimeSinusoid(model_time, 256).to(dtype), labels};
  if (layers_.empty()) return segments_.Dense(input);
  if (counts != nullptr) {
    counts->used.resize(layers_.size());
    counts->tokens += x.size(0) * model_.tokens_per_sample();
  }
  SegmentState state = segments_.First(input);
  for (size_t l = 0; l < layers_.size(); ++l) {
    int64_t used = 0;
    const at::Tensor tokens = state.moe_input.reshape({-1, model_.width});
    const at::Tensor y =
        layers_[l]->Infer(tokens, tokens.size(0), &used).view(state.moe_input.sizes());
    if (counts != nullptr) counts->used[l] += used;
    if (l + 1 == layers_.size()) return segments_.Last(state, y);
    state = segments_.Next(static_cast<int64_t>(l) + 1, state, y);
  }
  throw std::logic_error("unreachable");
}

}  // namespace diffmoe
