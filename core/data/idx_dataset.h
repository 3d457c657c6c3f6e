// The IDX half of ImageDataset::Open.
#pragma once

#include <memory>

#include "core/data/image_dataset.h"
#include "core/data/image_fit.h"

namespace diffmoe {

// Reads {split}-images-idx3-ubyte[.gz] and {split}-labels-idx1-ubyte[.gz] of data.path into memory;
// errors as in ImageDataset::Open, and RESOURCE_EXHAUSTED when the images need more than
// limits.memory_bytes.
absl::StatusOr<std::unique_ptr<ImageDataset>> OpenIdxDataset(const DataConfig& data,
                                                             const ModelConfig& model,
                                                             const ImageFit& fit,
                                                             const DatasetLimits& limits);

}  // namespace diffmoe
