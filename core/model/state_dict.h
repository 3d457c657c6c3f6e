// The published state dict of a network: parameters, the frozen table of positions and buffers, in
// the order of the published modules. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/spec/training_config.h"

namespace diffmoe {

enum class StateRole {
  kParameter,
  kPositionTable,   // pos_embed [1, tokens per sample, width]: a function of the model, not trained
  kThreshold,       // blocks.N.mlp.expert_threshold [experts]: diffmoe
  kThresholdDecay,  // blocks.N.mlp.ema_decay [1]: diffmoe; a constant
};

struct StateTensor {
  std::string name;
  std::vector<int64_t> shape;  // fp32
  StateRole role = StateRole::kParameter;
  int64_t block = -1;  // -1 outside the blocks

  int64_t elements() const;
};

// All tensors in published order. The names and shapes of parameters are those of
// DescribeParameters.
std::vector<StateTensor> DescribeStateDict(const ModelConfig& model);

}  // namespace diffmoe
