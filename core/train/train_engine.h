// One rank's training engine: model, optimiser state and the distributed step. A network is a chain
// of per-sample segments joined by pool-wide MoE layers; segments run unit by unit (`unit_samples`
// samples), so dense layers always see the same number of rows, and gradients of shared weights are
// added in a fixed tree over global unit ids. Losses, weights and thresholds are therefore the same
// bits for 1, 2 or 4 ranks.
//
// Optimiser state and average of dense parameters are split over ranks (each rank updates its slice
// and all gather the weights). One thread owns an engine. Errors are exceptions: CollectiveError,
// NonFiniteScoreError, c10::Error.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/model/parameters.h"
#include "core/model/segment.h"
#include "core/moe/moe_layer.h"
#include "core/parallel/collectives.h"
#include "core/spec/training_config.h"
#include "core/train/batch.h"

namespace diffmoe {

// Compatibility with the published code; the defaults are ours.
struct EngineOptions {
  at::ScalarType dtype = at::kFloat;
  bool threshold_starts_at_zero = false;
  bool sum_predictor_loss_over_layers = false;  // false: mean over layers
};

// Figures of one MoE layer over the global batch.
struct LayerFigures {
  int64_t block = 0;
  double capacity = 0;  // experts per token by the inference rule
  double predictor_accuracy = 0;
  double zero_expert_tokens = 0;
  std::vector<float> thresholds;   // after the step
  std::vector<float> expert_load;  // tokens by the inference rule over C * T / E
};

struct StepFigures {
  double loss = 0;            // flow loss, mean over the global batch
  double predictor_loss = 0;  // weighted as in the training loss
  double grad_norm = 0;       // before clipping, without the predictor
  double learning_rate = 0;
  double elapsed_seconds = 0;  // rank 0's training time, the same on every rank
  std::vector<LayerFigures> layers;
};

struct PhaseSeconds {
  double forward = 0, backward = 0, exchange = 0, reduce = 0, optimizer = 0;
};

// A contiguous run of elements of a logical fp32 tensor and the memory that holds it.
struct StateRun {
  std::string name;  // "model/<key>", "ema/<key>", "adam_m/<key>", "adam_v/<key>"
  std::vector<int64_t> shape;
  int64_t first_element = 0;
  int64_t elements = 0;
  float* data = nullptr;
};

class TrainEngine {
 public:
  TrainEngine(const TrainingConfig& config, Collectives& collectives,
              const EngineOptions& options = {});

  // Fresh weights from config.seed; the average starts as a copy.
  void Initialize();

  // Gradients of `batch` (this rank's part) without an update: losses and threshold updates happen.
  // For tests and Step.
  void ForwardBackward(const Batch& batch);
  // One optimiser step. step: 0 for the first. elapsed_seconds: training time so far (rank 0's
  // counts). progress is a function of the step and of rank 0's time, see TrainingProgress.
  StepFigures Step(int64_t step, const Batch& batch, double elapsed_seconds);

  // What this rank must save so that all ranks together save everything once.
  std::vector<StateRun> OwnedState();
  // What this rank needs to go on.
  std::vector<StateRun> NeededState();
  // After NeededState was filled: thresholds [layers][E] and whether they have been set.
  void RestoreThresholds(const std::vector<std::vector<float>>& thresholds, bool initialized);
  std::vector<std::vector<float>> Thresholds() const;
  bool thresholds_initialized() const;

  const ParameterLayout& layout() const { return layout_; }
  Parameters& parameters() { return parameters_; }
  const Parameters& gradients() const { return gradients_; }
  const MoeLayer& moe_layer(int64_t i) const { return *moe_layers_[static_cast<size_t>(i)]; }
  MoeLayer& mutable_moe_layer(int64_t i) { return *moe_layers_[static_cast<size_t>(i)]; }
  int64_t moe_layer_count() const { return static_cast<int64_t>(moe_layers_.size()); }
  const PhaseSeconds& phases() const { return phases_; }
  // Figures of the last ForwardBackward on this rank alone: flow loss per unit, network output per
  // unit.
  const std::vector<double>& unit_losses() const { return unit_losses_; }
  const std::vector<at::Tensor>& unit_outputs() const { return unit_outputs_; }
  const std::vector<MoeStepStats>& moe_stats() const { return moe_stats_; }

 private:
  struct UnitTape;
  struct Scalars;

  void Forward(const Batch& batch, std::vector<UnitTape>& tapes);
  void Backward(std::vector<UnitTape>& tapes);
  void BackwardSegment(int64_t segment, std::vector<UnitTape>& tapes, const at::Tensor& dmoe_input,
                       at::Tensor* dy);
  void WriteDenseGradients(const std::vector<ParameterPlace>& places,
                           const std::vector<at::Tensor>& sums);
  Scalars GatherScalars(const at::Tensor& grad_slice, double elapsed_seconds);
  void Update(const StepFigures& figures, int64_t step, const at::Tensor& grad_slice,
              double clip_scale);
  std::vector<StateRun> DenseRuns(const std::string& prefix, at::Tensor flat, int64_t flat_begin,
                                  int64_t begin, int64_t end);
  std::vector<StateRun> ExpertRuns(const std::string& prefix, const at::Tensor& flat);

  const TrainingConfig config_;
  const EngineOptions options_;
  Collectives& collectives_;
  ParameterLayout layout_;
  Parameters parameters_, gradients_;
  std::unique_ptr<Segments> segments_;
  std::vector<std::unique_ptr<MoeLayer>> moe_layers_;
  // Optimiser state: dense slice and owned experts.
  at::Tensor ema_dense_, m_dense_, v_dense_, ema_experts_, m_experts_, v_experts_;
  int64_t unit_count_ = 0, unit_tokens_ = 0;
  std::vector<double> unit_losses_;
  std::vector<at::Tensor> unit_outputs_;
  std::vector<MoeStepStats> moe_stats_;
  std::vector<MoeLayer::SavedPtr> moe_saved_;
  PhaseSeconds phases_;
};

// Share of the run that is done: steps or minutes, whichever is further.
double TrainingProgress(const TrainingConfig& config, int64_t step, double elapsed_seconds);

}  // namespace diffmoe
