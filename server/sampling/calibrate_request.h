// Rules of a CalibrateCheckpointRequest. Pure.
#pragma once

#include <vector>

#include "core/spec/training_config.h"
#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe::server {

inline constexpr int kDefaultCalibrationImages = 256;
inline constexpr int kMinCalibrationImages = 16;
inline constexpr int kMaxCalibrationImages = 10'000;
inline constexpr int kMaxCalibrationTargets = 64;

// All violations at once; `config` is the job's.
std::vector<v1::FieldViolation> ValidateCalibrateRequest(
    const v1::CalibrateCheckpointRequest& request, const TrainingConfig& config);

// Defaults filled. `request` is valid.
void CompleteCalibrateRequest(v1::CalibrateCheckpointRequest* request);

}  // namespace diffmoe::server
