// From the wire form of a training spec to plain structs.
#pragma once

#include "core/spec/training_config.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe {

// `spec` must be valid; absent fields get their defaults (a record of an older version lacks some).
// Pure and thread-safe.
TrainingConfig ToTrainingConfig(v1::TrainingSpec spec);

}  // namespace diffmoe
