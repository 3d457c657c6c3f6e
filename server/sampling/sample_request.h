// Rules of a SampleRequest. Pure.
#pragma once

#include <vector>

#include "core/diffusion/sampler_kind.h"
#include "core/spec/training_config.h"
#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe::server {

inline constexpr int kMaxSampleCount = 1024;
inline constexpr int kDefaultSampleSteps = 50;
inline constexpr double kMaxGuidance = 100;
inline constexpr double kDefaultGuidance = 2;
inline constexpr int kMaxPreviewEvery = 1000;
inline constexpr int kMaxImageScale = 4;  // times the size that was trained

// All violations at once; `config` is the job's. The checkpoint name isn't looked at.
std::vector<v1::FieldViolation> ValidateSampleRequest(const v1::SampleRequest& request,
                                                      const TrainingConfig& config);

// Sets sampler, steps (but for dopri5), guidance, rule, size, encoding and numeric mode where they
// are absent, and one class per image. `request` is valid for a job with `config`.
void CompleteSampleRequest(const TrainingConfig& config, v1::SampleRequest* request);

}  // namespace diffmoe::server
