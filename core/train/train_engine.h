// One rank's training engine: model, optimiser state and the distributed step. A network is a chain
// of per-sample segments joined by pool-wide MoE layers; segments run unit by unit (`unit_samples`
// samples), so dense layers always see the same number of rows, and gradients of shared weights are
// added in a fixed tree over global unit ids. Losses, weights and thresholds are therefore the same
// bits for 1, 2 or 4 ranks and any expert-parallel degree. With `deterministic: false` a rank's
// samples are one unit and experts compute the rows of nearby ranks: only the order of sums
// differs.
//
// Optimiser state and average of dense parameters are split over ranks (each rank updates its slice
// and all gather the weights); those of an expert are on its owner. With bf16, segments and experts
// compute with rounded copies of the weights; router, losses and optimiser stay fp32. One thread
// owns an engine. Errors are exceptions: CollectiveError,
// NonFiniteScoreError, c10::Error.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/activity.h"
#include "core/diffusion/process.h"
#include "core/model/parameters.h"
#include "core/model/segment.h"
#include "core/moe/moe_layer.h"
#include "core/parallel/collectives.h"
#include "core/spec/training_config.h"
#include "core/train/batch.h"

namespace diffmoe {

struct EngineOptions {
  at::ScalarType dtype = at::kFloat;  // of the master weights; fp64 in parity tests
  double threshold_decay = 0.95;
  // Called once per step after the gradients are there; what any rank says, all ranks read in
  // StepFigures::flags. Costs no collective of its own.
  std::function<uint32_t()> flags = nullptr;
  // Where the engine says what it does; outlives it or is null.
  Activity* activity = nullptr;
};

// Figures of one MoE layer over the global batch.
struct LayerFigures {
  int64_t block = 0;
  double capacity = 0;  // experts per token by the inference rule
  double predictor_accuracy = 0;
  double zero_expert_tokens = 0;
  double gate_entropy = 0;         // mean over tokens, in nats
  std::vector<float> thresholds;   // after the step; empty without predictor
  std::vector<float> expert_load;  // tokens by the inference rule over their mean share
  // Of this rank alone, forward pass: token rows sent to each rank, bytes on the wire, collectives.
  std::vector<int64_t> rows_to_rank;
  int64_t bytes_sent = 0, collectives = 0;
};

struct StepFigures {
  double loss = 0;            // of the diffusion process, mean over the global batch
  double predictor_loss = 0;  // diffmoe: of the capacity predictor, weighted as in training
  double balance_loss = 0;    // token_choice: the auxiliary loss, summed over layers
  double grad_norm = 0;       // before clipping, without the predictor
  double learning_rate = 0;
  double elapsed_seconds = 0;  // rank 0's training time, the same on every rank
  uint32_t flags = 0;  // bitwise or of EngineOptions::flags over ranks, the same on every rank
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
  // After parameters() were filled from elsewhere: the average starts as a copy of them.
  void StartAverage();

  // Gradients of `batch` (this rank's part, microbatch after microbatch) without an update of
  // weights; thresholds move. For tests and Step.
  void ForwardBackward(const Batch& batch);
  // One optimiser step. Throws NonFiniteScoreError before anything is updated but thresholds when
  // loss, gradient norm or a score is not finite: "loss is not a number at step 7: ...", counted
  // from 1. step: 0 for the first. elapsed_seconds: training time so far (rank 0's
  // counts). progress is a function of the step and of rank 0's time, see TrainingProgress.
  StepFigures Step(int64_t step, const Batch& batch, double elapsed_seconds);

  // What this rank must save so that all ranks together save everything once.
  std::vector<StateRun> OwnedState();
  // What this rank needs to go on.
  std::vector<StateRun> NeededState();
  // After NeededState was filled: thresholds [layers][E] (empty without predictor) and whether they
  // have been set.
  void FinishRestore(const std::vector<std::vector<float>>& thresholds, bool initialized);
  std::vector<std::vector<float>> Thresholds() const;
  bool thresholds_initialized() const;

  // The state tensor of that name, flat, when this rank owns all of it; otherwise undefined.
  at::Tensor State(const std::string& name) const;

  const ParameterLayout& layout() const { return layout_; }
  Parameters& parameters() { return parameters_; }
  // After ForwardBackward: of owned experts the gradient of the global loss; of dense parameters
  // the same in this rank's slice (`slice_begin`, `slice_elements` of the layout).
  const Parameters& gradients() const { return gradients_; }
  const MoeLayer& moe_layer(int64_t i) const { return *moe_layers_[static_cast<size_t>(i)]; }
  MoeLayer& mutable_moe_layer(int64_t i) { return *moe_layers_[static_cast<size_t>(i)]; }
  int64_t moe_layer_count() const { return static_cast<int64_t>(moe_layers_.size()); }
  const PhaseSeconds& phases() const { return phases_; }
  // Of the last ForwardBackward on this rank alone, microbatch after microbatch: loss and network
  // output per unit; selection [n, E] uint8 and figures per MoE layer.
  const std::vector<double>& unit_losses() const { return unit_losses_; }
  const std::vector<at::Tensor>& unit_outputs() const { return unit_outputs_; }
  const std::vector<std::vector<at::Tensor>>& selections() const { return selections_; }
  const std::vector<std::vector<MoeStepStats>>& moe_stats() const { return moe_stats_; }

 private:
  struct UnitTape;
  struct Scalars;

  void Forward(const Batch& batch, std::vector<UnitTape>& tapes);
  std::vector<at::Tensor> RunSegment(int64_t segment, UnitTape& tape) const;
  void FinishUnit(const Batch& batch, int64_t unit, UnitTape& tape, const at::Tensor& output);
  void Backward(std::vector<UnitTape>& tapes);
  void BackwardSegment(int64_t segment, std::vector<UnitTape>& tapes, const at::Tensor& dmoe_input,
                       at::Tensor* dy);
  void WriteDenseGradients(const std::vector<ParameterPlace>& places,
                           const std::vector<at::Tensor>& sums);
  // Sums the gradients of one microbatch over ranks and adds them to those before.
  void ReduceGradients(int64_t microbatch);
  void UpdateThresholds();
  std::vector<double> LocalScalars(double elapsed_seconds) const;
  Scalars GatherScalars(double elapsed_seconds);
  // Throws NonFiniteScoreError when the step must not be made.
  void CheckFinite(const StepFigures& figures, int64_t step) const;
  // The parameter nearest to the output, of this rank's part, whose gradient is not finite; empty
  // when there is none.
  std::string BadGradient() const;
  LayerFigures FiguresOf(size_t layer, const Scalars& scalars) const;
  void Update(const StepFigures& figures, int64_t step, double clip_scale);
  // After a change of the master weights.
  void RefreshComputeWeights();
  std::vector<StateRun> DenseRuns(const std::string& prefix, at::Tensor flat, int64_t flat_begin,
                                  int64_t begin, int64_t end);
  std::vector<StateRun> OwnedExpertRuns(const std::string& prefix, const at::Tensor& flat);
  std::vector<StateRun> ExpertWeightRuns(bool owned_only);
  std::vector<StateRun> OptimizerState();
  void Advance() const {
    if (options_.activity != nullptr) options_.activity->Advance();
  }
  at::Tensor Zeros(int64_t elements) const;
  at::ScalarType compute_dtype() const { return rounded_ ? at::kBFloat16 : options_.dtype; }

  const TrainingConfig config_;
  const EngineOptions options_;
  Collectives& collectives_;
  const std::unique_ptr<Process> process_;
  ParameterLayout layout_;
  Parameters parameters_, gradients_;
  std::unique_ptr<Parameters> rounded_;  // bf16 copies to compute with
  std::unique_ptr<Segments> segments_;
  std::vector<std::unique_ptr<MoeLayer>> moe_layers_;
  // Optimiser state: dense slice and owned experts.
  at::Tensor ema_dense_, m_dense_, v_dense_, ema_experts_, m_experts_, v_experts_;
  // Sums over microbatches, when there are several: dense slice and held experts.
  at::Tensor dense_sum_, expert_sum_;
  at::Tensor gradient_slice_;  // [slice_elements] of the last ForwardBackward
  int64_t unit_samples_ = 0, unit_count_ = 0, unit_tokens_ = 0;  // of one microbatch
  std::vector<double> unit_losses_;
  std::vector<at::Tensor> unit_outputs_;
  // [microbatch][layer]
  std::vector<std::vector<MoeStepStats>> moe_stats_;
  std::vector<std::vector<at::Tensor>> selections_, quantiles_;
  std::vector<MoeLayer::SavedPtr> moe_saved_;
  PhaseSeconds phases_;
  std::vector<std::string> segment_words_, moe_words_;  // for the activity: "blocks 0 to 2"
};

}  // namespace diffmoe
