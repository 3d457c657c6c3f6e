// The class-folder half of ImageDataset::Open.
#pragma once

#include <memory>

#include "core/data/image_dataset.h"
#include "core/data/image_fit.h"

namespace diffmoe {

// Decodes every image file of data.path/CLASS/. Links that lead out of data.path, FIFOs, devices
// and files over the limits count as broken. Errors as in ImageDataset::Open.
absl::StatusOr<std::unique_ptr<ImageDataset>> OpenFolderDataset(const DataConfig& data,
                                                                const ModelConfig& model,
                                                                const ImageFit& fit,
                                                                const DatasetLimits& limits);

}  // namespace diffmoe
