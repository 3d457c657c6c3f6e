// The tiny whole models of the fixtures: latent 4 x 8 x 8, patch 2, width 48, depth 4, MoE in
// blocks 1 and 3, 4 experts, 10 classes, variance channels; trained as the published code does.
#pragma once

#include <string>
#include <vector>

#include "core/diffusion/denoiser.h"
#include "core/model/parameters.h"
#include "core/spec/training_config.h"
#include "tests/parity/fixture.h"

namespace diffmoe {

inline constexpr int64_t kTinyNullClass = 10;

// "dense", "tc", "ec", "diffmoe" as in the files' names.
std::string FileNameOf(Family family);

TrainingConfig TinyConfig(Family family);

// model_<family>_weights into `parameters`, whatever their dtype.
void LoadTinyWeights(Family family, const Parameters& parameters);
// [MoE layers][E], empty unless diffmoe.
std::vector<std::vector<float>> TinyThresholds(Family family);

// A denoiser with weights and thresholds of the file.
std::unique_ptr<Denoiser> TinyDenoiser(Family family, at::ScalarType dtype, InferenceRule rule);

}  // namespace diffmoe
