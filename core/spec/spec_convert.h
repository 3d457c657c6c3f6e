// From the wire form of a training spec to plain structs.
#pragma once

#include "core/spec/training_config.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe {

// `spec` must be complete: defaults applied and validated. Pure and thread-safe.
TrainingConfig ToTrainingConfig(const v1::TrainingSpec& spec);

}  // namespace diffmoe
