// The table files that one shard stream is written to. Not thread-safe; removes its files when
// destroyed, unless Release was called.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "core/storage/chunk_key.h"
#include "rocksdb/options.h"
#include "rocksdb/sst_file_writer.h"

namespace diffmoe::storage {

class ShardFiles {
 public:
  // new_path: a fresh path in the store's work folder.
  ShardFiles(rocksdb::Options options, int64_t file_bytes,
             absl::AnyInvocable<std::string()> new_path);
  ~ShardFiles();
  ShardFiles(const ShardFiles&) = delete;
  ShardFiles& operator=(const ShardFiles&) = delete;

  // Keys must ascend.
  absl::Status Put(const ChunkKey& key, std::string_view bytes);
  // Completes and syncs the last file.
  absl::Status Finish();
  const std::vector<std::string>& paths() const { return paths_; }
  void Release() { paths_.clear(); }

 private:
  absl::Status FinishFile();
  const rocksdb::Options options_;
  const int64_t file_bytes_;
  absl::AnyInvocable<std::string()> new_path_;
  std::vector<std::string> paths_;
  std::unique_ptr<rocksdb::SstFileWriter> writer_;
  int64_t bytes_in_file_ = 0;
};

}  // namespace diffmoe::storage
