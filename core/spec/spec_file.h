// Reading a spec file from disk.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace diffmoe {

// Largest accepted spec, in bytes.
inline constexpr size_t kMaxSpecBytes = 1 << 20;

// The file's bytes, read once. Only regular files of at most kMaxSpecBytes: NOT_FOUND,
// PERMISSION_DENIED or INVALID_ARGUMENT (a directory, device or FIFO; too large) with the path in
// the message. Never blocks on a FIFO.
absl::StatusOr<std::string> ReadSpecFile(const std::string& path);

}  // namespace diffmoe
