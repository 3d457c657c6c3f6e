// A file that appears whole or not at all: bytes go to a temporary file in the same folder, and
// Commit syncs it and renames it over `path`. Destroyed without Commit, it leaves nothing behind.
// Not thread-safe; owns its descriptor.
//
// Errors: NOT_FOUND (no such folder), PERMISSION_DENIED, RESOURCE_EXHAUSTED (disk full), INTERNAL
// (any other I/O error); each message names the file.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace diffmoe {

class AtomicFile {
 public:
  static absl::StatusOr<std::unique_ptr<AtomicFile>> Create(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  absl::Status Append(std::string_view bytes);
  // The last call: afterwards the file stands under its name, also after a loss of power.
  absl::Status Commit();

 private:
  AtomicFile(std::string path, std::string temporary, int fd);

  std::string path_;
  std::string temporary_;
  int fd_;
};

absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes);

// Removes the temporary files that processes which died in the middle of a write of `path` have
// left in its folder. Only for one who is alone there: a write that goes on would fail.
void RemoveUnfinished(const std::string& path);

// Status of a failed system call on `path`, with the code that fits `error` (an errno value).
absl::Status FileError(int error, const char* action, const std::string& path);

}  // namespace diffmoe
