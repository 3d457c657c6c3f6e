// One pass of a calibration: a set of images through the network, layer by layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "core/diffusion/calibration.h"

namespace diffmoe {

class CalibrationPass {
 public:
  // The thresholds [E] of a layer from the router's outputs for all images, one per batch.
  using Decide =
      std::function<std::vector<float>(int64_t layer, const std::vector<RouterOutput>& routes)>;

  // Images [begin, begin + count) of `data`, all of which must outlive the pass.
  CalibrationPass(const Denoiser& denoiser, const Process& process, const ModelConfig& model,
                  const CalibrationData& data, int64_t begin, int64_t count, bool by_gate,
                  Decide decide);

  bool done() const { return layer_ == denoiser_.moe_layer_count(); }
  // One batch through the router or the rest of one layer.
  void Step();
  double progress() const;

  // When done.
  const std::vector<std::vector<float>>& thresholds() const { return thresholds_; }
  const std::vector<double>& layer_capacity() const { return layer_capacity_; }
  double capacity() const;  // mean over layers
  double loss() const { return loss_; }
  double seconds() const { return seconds_; }

 private:
  struct Input {
    at::Tensor images, noise, noisy, t, labels;
  };
  void Begin(size_t batch);
  void Apply(size_t batch);

  const Denoiser& denoiser_;
  const Process& process_;
  const ModelConfig model_;
  const bool by_gate_;
  const Decide decide_;
  std::vector<Input> inputs_;
  std::vector<SegmentState> states_;
  std::vector<RouterOutput> routes_;
  std::vector<std::vector<float>> thresholds_;
  std::vector<double> layer_capacity_;
  double loss_ = 0, seconds_ = 0, elements_ = 0;
  int64_t tokens_ = 0, used_ = 0;  // used: of the layer under way
  int64_t layer_ = 0;
  bool routing_ = true;
  size_t batch_ = 0;
};

}  // namespace diffmoe
