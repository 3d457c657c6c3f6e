// Whether a directory's disk takes bytes again.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace rocksdb {
class Env;
}

namespace diffmoe::storage {

// Writes, syncs and removes a file of `bytes` in `directory`. RESOURCE_EXHAUSTED when the disk is
// full.
absl::Status ProbeSpace(const std::string& directory, int64_t bytes, rocksdb::Env* env);

}  // namespace diffmoe::storage
