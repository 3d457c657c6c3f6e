// Arrays in numpy's file format, version 1.0 (numpy/lib/format.py).
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace diffmoe {

// uint8, row-major. `bytes` holds as many as the shape says.
std::string NpyBytes(absl::Span<const int64_t> shape, const std::string& bytes);
// int64, little-endian, one dimension.
std::string NpyInt64(absl::Span<const int64_t> values);

}  // namespace diffmoe
