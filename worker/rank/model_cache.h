// The models that a sampler has in memory: EMA weights of committed checkpoints, ready for
// inference. One thread uses a cache and what it gave out.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/diffusion/denoiser.h"
#include "core/diffusion/process.h"
#include "core/spec/training_config.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

// A step that was saved again, by a later attempt, is another checkpoint.
struct CheckpointId {
  std::string job_id;
  int64_t step = 0;
  int64_t epoch = 0;
  bool operator==(const CheckpointId&) const = default;
};

// A checkpoint's weights for inference. The two numeric modes hold their weights separately; a mode
// is set up when it is first asked for.
class CheckpointModel {
 public:
  // Reads the weights. FAILED_PRECONDITION when the checkpoint lacks EMA weights or thresholds that
  // the model needs; errors of the link.
  static absl::StatusOr<std::shared_ptr<CheckpointModel>> Read(RankLink& link,
                                                               const CheckpointId& id,
                                                               const TrainingConfig& config,
                                                               NumericMode mode);

  const CheckpointId& id() const { return id_; }
  const TrainingConfig& config() const { return config_; }
  const Process& process() const { return *process_; }
  // xxh3 of the weights in the order of the layout, hexadecimal.
  const std::string& weights_hash() const { return weights_hash_; }
  // Of the training run, [MoE layers][experts]; the inner vectors are empty without predictor.
  const std::vector<std::vector<float>>& thresholds() const { return thresholds_; }

  // Sets the mode up when it isn't.
  Denoiser& Mode(NumericMode mode);

 private:
  CheckpointModel() = default;
  std::unique_ptr<Denoiser>& Slot(NumericMode mode) {
    return mode == NumericMode::kFast ? fast_ : exact_;
  }
  std::unique_ptr<Denoiser> Empty() const;

  CheckpointId id_;
  TrainingConfig config_;
  std::unique_ptr<Process> process_;
  std::string weights_hash_;
  std::vector<std::vector<float>> thresholds_;
  std::unique_ptr<Denoiser> exact_, fast_;  // at least one
};

// Models that somebody holds stay; of the others the `spare` used last.
class ModelCache {
 public:
  explicit ModelCache(RankLink& link, size_t spare = 2) : link_(link), spare_(spare) {}

  absl::StatusOr<std::shared_ptr<CheckpointModel>> Get(const CheckpointId& id,
                                                       const TrainingConfig& config,
                                                       NumericMode mode);
  size_t size() const { return models_.size(); }

 private:
  void Trim();

  RankLink& link_;
  const size_t spare_;
  std::list<std::shared_ptr<CheckpointModel>> models_;  // used last first
};

}  // namespace diffmoe
