// Trains a small model on R ranks of this process and gathers what the layout must not change.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/spec/training_config.h"

namespace diffmoe {

// Width 64, 4 blocks, 8 experts, 16 images of 16 x 16 a step.
TrainingConfig SmallConfig(Family family);

// A data set that is a function: blobs whose place depends on the index. Returns the label.
int SyntheticImage(uint64_t index, std::span<float> out);

struct Layout {
  int ranks = 1;
  int64_t expert_parallel = 1;
};

struct TrainingRun {
  std::vector<double> losses, router_losses, grad_norms;
  std::vector<std::string> selections;              // per step: masks of all layers and tokens
  std::map<std::string, std::vector<float>> state;  // whole logical tensors
  std::vector<std::vector<float>> thresholds;

  // SHA-256, in hex, of all weights, averages, moments and thresholds.
  std::string Sha256() const;
};

// Steps [first, end) of a run of config.steps, from fresh weights or from the state that `from`
// ended with.
TrainingRun TrainSteps(TrainingConfig config, const Layout& layout, int64_t first, int64_t end,
                       const TrainingRun* from);
// The whole run.
TrainingRun Train(const TrainingConfig& config, const Layout& layout);

}  // namespace diffmoe
