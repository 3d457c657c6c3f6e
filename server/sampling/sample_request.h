// Rules of a SampleRequest. Pure.
#pragma once

#include <vector>

#include "core/diffusion/sampler_kind.h"
#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe::server {

inline constexpr int kMaxSampleCount = 1024;
inline constexpr int kDefaultSampleSteps = 50;
inline constexpr double kMaxGuidance = 100;
inline constexpr double kDefaultGuidance = 2;

// All violations at once; `spec` is the job's. The checkpoint name isn't looked at.
std::vector<v1::FieldViolation> ValidateSampleRequest(const v1::SampleRequest& request,
                                                      const v1::TrainingSpec& spec);

// Defaults filled, one class per image. `request` is valid for a job with `spec`.
void CompleteSampleRequest(const v1::TrainingSpec& spec, v1::SampleRequest* request);

}  // namespace diffmoe::server
