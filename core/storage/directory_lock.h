// The exclusive right to a directory, for as long as the object lives. Held by flock on DIR/lock,
// which also holds the owner's pid; so it ends with the process, however that ends. Child processes
// don't inherit it.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace diffmoe {

class DirectoryLock {
 public:
  // Creates the directory (and its parents) when it isn't there, and locks it. Errors:
  // PERMISSION_DENIED naming the path when it can't be created or written, or when something else
  // than a directory lies there; FAILED_PRECONDITION "held by pid N" when another opener (also one
  // of this process) holds it; RESOURCE_EXHAUSTED when the disk is full.
  static absl::StatusOr<DirectoryLock> Acquire(const std::string& directory);

  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;
  ~DirectoryLock();

  const std::string& directory() const { return directory_; }

 private:
  DirectoryLock(std::string directory, int fd) : directory_(std::move(directory)), fd_(fd) {}
  std::string directory_;
  int fd_ = -1;
};

}  // namespace diffmoe
