// The network at inference: all experts on one rank, per-token threshold routing, no gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/model/parameters.h"
#include "core/model/segment.h"
#include "core/moe/moe_layer.h"
#include "core/parallel/collectives.h"

namespace diffmoe {

// Experts used, counted per MoE layer over all samples of a call.
struct CapacityCounts {
  std::vector<int64_t> used;  // (token, expert) pairs per layer
  int64_t tokens = 0;         // tokens seen by each layer
};

// Samples that share a call and nothing else.
struct DenoiseBatch {
  at::Tensor x;           // [n, C, H, W] fp32; H = W, a multiple of the patch size
  at::Tensor model_time;  // [n] fp32, what the sinusoid sees (Process::ModelTime)
  at::Tensor labels;      // [n] int64
  // [n, MoE layers, E] fp32: the threshold of every sample's tokens. Undefined: SetThresholds.
  at::Tensor thresholds;
  // [n] uint8: 1, thresholds are compared with the gate's probability, 0, with the predictor's.
  // Undefined: all 0.
  at::Tensor by_gate;
};

struct DenoiseCounts {
  at::Tensor used;            // [n, MoE layers] int64, (token, expert) pairs
  at::Tensor without_expert;  // [n, MoE layers] int64, tokens that used no expert
};

class Denoiser {
 public:
  // Zero weights of `dtype`; fill parameters() and SetThresholds before use.
  // `options` matters where it says how experts are chosen at inference.
  Denoiser(const ModelConfig& model, at::ScalarType dtype, const MoeOptions& options = {});

  Parameters& parameters() { return parameters_; }
  const ParameterLayout& layout() const { return layout_; }
  int64_t moe_layer_count() const { return static_cast<int64_t>(layers_.size()); }
  void SetThresholds(const std::vector<std::vector<float>>& thresholds);

  // x: [n, C, H, W]; model_time: [n] fp32, what the sinusoid sees (Process::ModelTime); labels: [n]
  // int64. Returns [n, out_channels, H, W]. All n samples go through each layer in one call; for
  // bits that don't depend on batch mates call with one sample's rows at a time.
  at::Tensor Run(const at::Tensor& x, const at::Tensor& model_time, const at::Tensor& labels,
                 CapacityCounts* counts = nullptr) const;

  // Packs the weights as they are now for RunBatch's exact mode; the layout of the weights costs as
  // much memory again.
  void Pack();
  // All samples of the batch in one call. After Pack(): the bits of a sample depend on neither the
  // others, nor its place. Without: the library's matrix products, whose rounding may depend on the
  // number of rows. Not for the batch_topk rule, by which samples see each other.
  at::Tensor RunBatch(const DenoiseBatch& batch, DenoiseCounts* counts = nullptr) const;

  // The parts of a call, for a calibration that stops at every MoE layer.
  const Segments& segments() const { return segments_; }
  const MoeLayer& moe_layer(int64_t i) const { return *layers_[static_cast<size_t>(i)]; }

 private:
  const ModelConfig model_;
  std::unique_ptr<Collectives> collectives_;
  ParameterLayout layout_;
  Parameters parameters_;
  Segments segments_;
  std::vector<std::unique_ptr<MoeLayer>> layers_;
};

}  // namespace diffmoe
