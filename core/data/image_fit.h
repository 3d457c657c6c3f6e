// Brings a decoded image to the size and channels of the model. Pure functions.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/data/image.h"
#include "core/spec/training_config.h"

namespace diffmoe {

struct ImageFit {
  int64_t channels = 1;  // 1 or 3
  int64_t size = 32;     // height and width
  Resize resize = Resize::kCrop;

  int64_t bytes() const { return channels * size * size; }
};

// planes: [channels, size, size]. Colour becomes grey by ITU-R BT.601 luma; grey is repeated to
// colour. kCrop: the centred square, then a triangle filter as wide as the scale (bilinear when
// enlarging). kPad: black around the centred image; INVALID_ARGUMENT when it is larger than `size`.
absl::Status FitImage(const Image& image, const ImageFit& fit, absl::Span<uint8_t> planes);

}  // namespace diffmoe
