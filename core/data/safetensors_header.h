// The JSON header of a safetensors file, to and from structs. Pure functions; used by
// safetensors.cc alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/data/safetensors.h"

namespace diffmoe {

struct SafetensorsHeader {
  SafetensorsMetadata metadata;
  std::vector<SafetensorsInfo> tensors;  // in the order of their bytes
};

// Parses and checks the header of a file whose data section has `data_bytes` bytes: the tensors
// must cover it without gap or overlap. DATA_LOSS says which tensor is wrong and why; it doesn't
// name the file.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, int64_t data_bytes);

// Fills in offset and bytes of each tensor, in order, and returns the JSON padded to a multiple of
// eight bytes.
absl::StatusOr<std::string> MakeSafetensorsHeader(const SafetensorsMetadata& metadata,
                                                  std::vector<SafetensorsInfo>& tensors);

}  // namespace diffmoe
