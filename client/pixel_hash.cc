#include "client/pixel_hash.h"

#include <xxhash.h>

#include "absl/strings/str_format.h"

namespace diffmoe {

std::string Xxh3Hex(absl::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

std::string Xxh3Hex(absl::Span<const uint8_t> bytes) {
  return Xxh3Hex(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace diffmoe
