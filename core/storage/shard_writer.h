// ShardWriter's inside, shared with the store that ingests its files.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/storage/chunk_store.h"
#include "core/storage/shard_files.h"

namespace diffmoe {

class ShardWriter::Impl {
 public:
  Impl(CheckpointId id, int shard, int64_t bytes, std::unique_ptr<storage::ShardFiles> files);
  absl::Status Append(std::string_view bytes);
  absl::Status Seal();

  const CheckpointId& id() const { return id_; }
  const ShardLayout& layout() const { return layout_; }
  bool sealed() const { return sealed_; }
  storage::ShardFiles& files() { return *files_; }

 private:
  absl::Status WriteChunk(std::string_view chunk);
  const CheckpointId id_;
  const int64_t announced_bytes_;
  std::unique_ptr<storage::ShardFiles> files_;
  ShardLayout layout_;
  std::string partial_;  // less than a chunk
  bool sealed_ = false;
};

}  // namespace diffmoe
