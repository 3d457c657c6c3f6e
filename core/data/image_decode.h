// PNG and JPEG files to pixels. A file is not trusted: its size is checked before anything is
// allocated for it, and damage of any kind is an error, never a partly grey image. Pure functions.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/data/image.h"

namespace diffmoe {

// By the file's first bytes. INVALID_ARGUMENT with the reason: neither PNG nor JPEG, damaged,
// truncated, more than max_pixels, or a kind that isn't supported (CMYK JPEG).
absl::StatusOr<Image> DecodeImage(std::string_view bytes, int64_t max_pixels);

// Any colour type and depth, interlaced or not. Transparency (alpha or tRNS) is composited on
// white; 16 bits become 8.
absl::StatusOr<Image> DecodePng(std::string_view bytes, int64_t max_pixels);

// Baseline and progressive, grey and colour. A warning of the decoder counts as damage.
absl::StatusOr<Image> DecodeJpeg(std::string_view bytes, int64_t max_pixels);

}  // namespace diffmoe
