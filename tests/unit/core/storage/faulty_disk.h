// A file system for RocksDB that fails on command, over the real one.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "rocksdb/env.h"
#include "rocksdb/file_system.h"

namespace diffmoe::test {

enum class Fault {
  kNone,
  kFullOnAppend,  // half of the bytes are written, then ENOSPC
  kFullOnSync,    // all bytes are written, the sync says ENOSPC
  kErrorOnSync,   // the sync says EIO
};

class FaultyDisk {
 public:
  FaultyDisk();
  ~FaultyDisk();
  rocksdb::Env* env() { return env_.get(); }
  void Set(Fault fault) { *fault_ = fault; }

 private:
  std::shared_ptr<std::atomic<Fault>> fault_;
  std::unique_ptr<rocksdb::Env> env_;
};

// Changes one byte of a file.
void FlipByte(const std::string& path, int64_t offset);
// The only file, or the newest by name, in `directory` with this extension; aborts when there is
// none.
std::string FileWithExtension(const std::string& directory, const std::string& extension);

}  // namespace diffmoe::test
