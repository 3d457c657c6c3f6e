// Writing of images. Pixels are uint8 in row-major [height, width, channels] order, channels 1
// (grey) or 3 (RGB).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/data/image.h"

namespace diffmoe {

// The bytes of a PNG file. INVALID_ARGUMENT when the sizes don't fit each other.
absl::StatusOr<std::string> EncodePng(int height, int width, int channels,
                                      absl::Span<const uint8_t> pixels);

// Writes a PNG file, whole or not at all. Errors as in EncodePng and AtomicFile.
absl::Status WritePng(const std::string& path, int height, int width, int channels,
                      absl::Span<const uint8_t> pixels);
absl::Status WritePng(const std::string& path, const Image& image);

struct GridOptions {
  int columns = 0;  // 0: as square as it gets
  int gap = 2;      // pixels between the images and around them
  int scale = 1;    // each pixel becomes scale x scale pixels
  uint8_t background = 255;
};

// All images on one sheet, in row order. They must have one size and channel count;
// INVALID_ARGUMENT otherwise, or when there are none.
absl::StatusOr<Image> MakeGrid(absl::Span<const Image> images, const GridOptions& options = {});

// Pixels from values in [-1, 1] in planar [channels, height, width] order; values outside are
// clamped, NaN becomes black. INVALID_ARGUMENT when the sizes don't fit each other.
absl::StatusOr<Image> ImageFromPlanes(int channels, int height, int width,
                                      absl::Span<const float> planes);

}  // namespace diffmoe
