#include "core/storage/shard_writer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/kill_point.h"
#include "core/base/status_macros.h"

namespace diffmoe {

ShardWriter::Impl::Impl(CheckpointId id, int shard, int64_t bytes,
                        std::unique_ptr<storage::ShardFiles> files)
    : id_(std::move(id)), announced_bytes_(bytes), files_(std::move(files)) {
  layout_.shard = shard;
}

absl::Status ShardWriter::Impl::Append(std::string_view bytes) {
  const int64_t total = layout_.bytes + static_cast<int64_t>(bytes.size());
  if (sealed_ || total > announced_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("shard ", layout_.shard, " of ", ToString(id_),
                                                   " was announced with ", announced_bytes_,
                                                   " bytes, got at least ", total));
  }
  layout_.bytes = total;
  while (!bytes.empty()) {
    if (partial_.empty() && bytes.size() >= kChunkBytes) {
      RETURN_IF_ERROR(WriteChunk(bytes.substr(0, kChunkBytes)));
      bytes.remove_prefix(kChunkBytes);
      continue;
    }
    const size_t take = std::min(bytes.size(), static_cast<size_t>(kChunkBytes) - partial_.size());
    partial_.append(bytes.substr(0, take));
    bytes.remove_prefix(take);
    if (partial_.size() == kChunkBytes) {
      RETURN_IF_ERROR(WriteChunk(partial_));
      partial_.clear();
    }
  }
  return absl::OkStatus();
}

absl::Status ShardWriter::Impl::WriteChunk(std::string_view chunk) {
  const int64_t number = static_cast<int64_t>(layout_.chunk_xxh3.size());
  layout_.chunk_xxh3.push_back(ChunkChecksum(chunk));
  RETURN_IF_ERROR(files_->Put({id_, layout_.shard, number}, chunk));
  KillPoint("shard.chunk_written");
  return absl::OkStatus();
}

absl::Status ShardWriter::Impl::Seal() {
  if (layout_.bytes != announced_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("shard ", layout_.shard, " of ", ToString(id_),
                                                   " was announced with ", announced_bytes_,
                                                   " bytes, got ", layout_.bytes));
  }
  if (!partial_.empty()) RETURN_IF_ERROR(WriteChunk(partial_));
  partial_.clear();
  RETURN_IF_ERROR(files_->Finish());
  sealed_ = true;
  KillPoint("shard.sealed");
  return absl::OkStatus();
}

ShardWriter::ShardWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ShardWriter::~ShardWriter() = default;
absl::Status ShardWriter::Append(std::string_view bytes) { return impl_->Append(bytes); }
absl::Status ShardWriter::Seal() { return impl_->Seal(); }
const ShardLayout& ShardWriter::layout() const { return impl_->layout(); }

}  // namespace diffmoe
