// XXH3-128 of bytes, as receipts and sets of images name them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace diffmoe {

// 32 lower-case hexadecimal digits, the high half first (the canonical form of XXH3-128).
std::string Xxh3Hex(absl::string_view bytes);
std::string Xxh3Hex(absl::Span<const uint8_t> bytes);

}  // namespace diffmoe
