// Thresholds for a wanted capacity from a checkpoint's calibration. Pure.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe::server {

// Those of the target, or, between two targets, each threshold's log-odds interpolated linearly in
// the capacity. One entry per MoE layer in the calibration's order.
// INVALID_ARGUMENT naming "capacity" and the range outside of it; FAILED_PRECONDITION
// NO_CALIBRATION when the rule has no targets.
absl::StatusOr<std::vector<v1::CalibratedLayer>> ResolveThresholds(
    const v1::Calibration& calibration, v1::ThresholdRule rule, double capacity);

}  // namespace diffmoe::server
