// One rank's part of a global batch, a pure function of (seed, step, global sample index): the same
// for any number of ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>

#include "core/spec/training_config.h"

namespace diffmoe {

struct Batch {
  at::Tensor images;  // [n, C, H, W] fp32 in [-1, 1]
  at::Tensor noise;   // [n, C, H, W] standard normal
  at::Tensor t;       // [n] in [0, 1]; DDPM: a step, 0 to 999
  at::Tensor labels;  // [n] int64, dropped labels replaced by `classes`
};

// Reads image `index` of a data set of `size` images into `out` [C * H * W]; returns its label.
// Throws on failure.
using ReadImage = std::function<int(uint64_t index, std::span<float> out)>;

// This rank's samples of the global batch of `step`: of each of `accumulation` microbatches, one
// after the other, the rank-th of `world_size` equal parts.
Batch MakeBatch(const TrainingConfig& config, int64_t step, int rank, int world_size,
                uint64_t dataset_size, const ReadImage& read);

}  // namespace diffmoe
