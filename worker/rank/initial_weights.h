// Weights of step 0 from a file, for train.initial_weights.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "core/train/train_engine.h"

namespace diffmoe {

// Fills the parameters that this rank holds and the thresholds; the average starts as a copy. The
// file must hold the weights of exactly this model; errors are those of WeightsReader and name the
// field, the file and the tensor. After an error the engine must not be used.
absl::Status LoadInitialWeights(const std::string& path, const ModelConfig& model,
                                TrainEngine& engine);

}  // namespace diffmoe
