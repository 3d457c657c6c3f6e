// A file system of a test's own that can be filled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::test {

// A tmpfs, mounted in a temporary directory; unmounted by the destructor. Not thread-safe.
class SmallDisk {
 public:
  // `inodes`: how many files it can hold; 0: as many as fit. PERMISSION_DENIED when this process
  // may not mount.
  static absl::StatusOr<std::unique_ptr<SmallDisk>> Mount(int64_t bytes, int64_t inodes);
  ~SmallDisk();

  const std::string& path() const { return path_; }
  // Leaves no byte, or no inode, to others. Aborts when that can't be done.
  void FillBytes();
  void FillInodes();
  // Removes what Fill... has written.
  void Free();

 private:
  SmallDisk() = default;
  TempDir dir_;
  std::string path_;
};

}  // namespace diffmoe::test
