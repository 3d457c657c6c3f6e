// Thresholds with which a trained network uses a wanted number of experts per token, from images
// that it was not trained on.
//
// The images are noised at times that are spread evenly over the way (stratified) with fixed noise.
// A pass takes all of them through the network layer by layer: at each MoE layer the exact
// quantiles of the scores give the thresholds, and the next layer sees what these let through. Half
// of the images give the thresholds, the other half measures what they do.
//
// A step machine, so that a sampler can serve requests in between: while (!done()) Step(). One
// thread uses it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/diffusion/denoiser.h"
#include "core/diffusion/process.h"

namespace diffmoe {

enum class CalibrationRule {
  kPredictor,  // predicted probability above a quantile of each expert's
  kInterval,   // ... above one threshold for all experts and layers, found by bisection
  kGate,       // gate probability above a quantile of each expert's
};

struct CalibrationTarget {
  CalibrationRule rule = CalibrationRule::kPredictor;
  double capacity = 0;                         // wanted experts per token
  std::vector<std::vector<float>> thresholds;  // [MoE layers][experts]
  std::vector<double> layer_capacity;          // measured, per layer
  double measured = 0;                         // mean over layers
  double loss = 0;                             // of the process, on the measured images
  double seconds = 0;                          // per image and call
};

// n images for the thresholds, then n that measure.
struct CalibrationData {
  at::Tensor images;  // [2 n, C, H, W] fp32 in [-1, 1]
  at::Tensor noise;   // as images
  at::Tensor t;       // [2 n], time of the process
  at::Tensor labels;  // [2 n] int64, some replaced by the null class as in training
};

// Reads image `index` of a data set into `out` [C * H * W]; returns its label. Throws on failure.
using ReadCalibrationImage = std::function<int(int64_t index, float* out)>;
// 2 * `images` images, spread evenly over the data set; fewer when it is smaller. Deterministic.
CalibrationData MakeCalibrationData(const TrainingConfig& config, int64_t images,
                                    int64_t dataset_size, const ReadCalibrationImage& read);

class CalibrationPass;

class Calibration {
 public:
  // `denoiser` and `process` must outlive this object. capacities: each in (0, experts]. The model
  // is of the family diffmoe.
  Calibration(const Denoiser& denoiser, const Process& process, const ModelConfig& model,
              CalibrationData data, std::vector<double> capacities);
  ~Calibration();

  bool done() const { return targets_.size() == plan_; }
  // One batch of images through one layer.
  void Step();
  double progress() const;
  std::string doing() const;
  const std::vector<CalibrationTarget>& targets() const { return targets_; }

 private:
  enum class Stage { kFind, kMeasure };
  struct Probe {
    double logit = 0;     // of the one threshold of kInterval
    double capacity = 0;  // what it gave
  };

  void StartPass();
  void EndPass();
  // The next threshold of kInterval to try for the current target.
  double NextLogit() const;
  std::vector<std::vector<float>> Uniform(double logit) const;

  const Denoiser& denoiser_;
  const Process& process_;
  const ModelConfig model_;
  const CalibrationData data_;
  const std::vector<double> capacities_;
  const size_t plan_;  // targets in all
  Stage stage_ = Stage::kFind;
  CalibrationTarget target_;  // under way
  std::vector<Probe> probes_;
  int tries_ = 0;  // of the current target
  std::unique_ptr<CalibrationPass> pass_;
  std::vector<CalibrationTarget> targets_;
};

}  // namespace diffmoe
