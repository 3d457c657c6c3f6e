// ShardReader's inside.
#pragma once

#include <string_view>

#include "absl/strings/string_view.h"
#include "core/storage/chunk_store.h"
#include "rocksdb/db.h"

namespace diffmoe {

class ShardReader::Impl {
 public:
  // `db` must outlive the object.
  Impl(rocksdb::DB* db, CheckpointId id, ShardLayout layout);
  absl::Status Read(int64_t offset, int64_t bytes,
                    absl::FunctionRef<absl::Status(std::string_view)> sink);

 private:
  absl::Status LoadChunk(int64_t number);
  absl::Status Damaged(int64_t number, absl::string_view why) const;
  rocksdb::DB* const db_;
  const CheckpointId id_;
  const ShardLayout layout_;
  int64_t loaded_ = -1;  // number of the chunk in chunk_
  rocksdb::PinnableSlice chunk_;
};

// Whether the layout is one that a shard can have. DATA_LOSS.
absl::Status CheckLayout(const CheckpointId& id, const ShardLayout& layout);

}  // namespace diffmoe
