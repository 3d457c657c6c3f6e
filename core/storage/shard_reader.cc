#include "core/storage/shard_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/storage/chunk_key.h"

namespace diffmoe {
namespace {

int64_t ChunkCount(const ShardLayout& layout) {
  return (layout.bytes + layout.chunk_bytes - 1) / layout.chunk_bytes;
}

}  // namespace

absl::Status CheckLayout(const CheckpointId& id, const ShardLayout& layout) {
  if (layout.chunk_bytes == kChunkBytes && layout.bytes >= 0 &&
      layout.bytes / kChunkBytes <= storage::kMaxChunk &&
      ChunkCount(layout) == static_cast<int64_t>(layout.chunk_xxh3.size())) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat(
      "shard ", layout.shard, " of ", ToString(id), ": the manifest has ", layout.chunk_xxh3.size(),
      " checksums of chunks of ", layout.chunk_bytes, " bytes for ", layout.bytes, " bytes"));
}

ShardReader::Impl::Impl(rocksdb::DB* db, CheckpointId id, ShardLayout layout)
    : db_(db), id_(std::move(id)), layout_(std::move(layout)) {}

absl::Status ShardReader::Impl::Read(int64_t offset, int64_t bytes,
                                     absl::FunctionRef<absl::Status(std::string_view)> sink) {
  RETURN_IF_ERROR(CheckLayout(id_, layout_));
  if (offset < 0 || bytes < 0 || bytes > layout_.bytes || offset > layout_.bytes - bytes) {
    return absl::OutOfRangeError(absl::StrCat("bytes [", offset, ", +", bytes, ") of shard ",
                                              layout_.shard, " of ", ToString(id_), ", which has ",
                                              layout_.bytes));
  }
  while (bytes > 0) {
    RETURN_IF_ERROR(LoadChunk(offset / kChunkBytes));
    const int64_t start = offset % kChunkBytes;
    const int64_t take = std::min(bytes, kChunkBytes - start);
    RETURN_IF_ERROR(sink(std::string_view(chunk_.data() + start, static_cast<size_t>(take))));
    offset += take;
    bytes -= take;
  }
  return absl::OkStatus();
}

absl::Status ShardReader::Impl::Damaged(int64_t number, absl::string_view why) const {
  return absl::DataLossError(
      absl::StrCat("shard ", layout_.shard, " of ", ToString(id_), ": chunk ", number, " ", why));
}

absl::Status ShardReader::Impl::LoadChunk(int64_t number) {
  if (number == loaded_) return absl::OkStatus();
  loaded_ = -1;
  chunk_.Reset();
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const rocksdb::Status status =
      db_->Get(options, db_->DefaultColumnFamily(),
               storage::EncodeChunkKey({id_, layout_.shard, number}), &chunk_);
  if (status.IsNotFound()) return Damaged(number, "is missing");
  if (!status.ok()) return Damaged(number, absl::StrCat("can't be read: ", status.ToString()));
  const int64_t expected = std::min(kChunkBytes, layout_.bytes - number * kChunkBytes);
  if (static_cast<int64_t>(chunk_.size()) != expected) {
    return Damaged(number, absl::StrCat("has ", chunk_.size(), " bytes, expected ", expected));
  }
  if (ChunkChecksum(chunk_.ToStringView()) != layout_.chunk_xxh3[static_cast<size_t>(number)]) {
    return Damaged(number, "doesn't match its checksum");
  }
  loaded_ = number;
  return absl::OkStatus();
}

ShardReader::ShardReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ShardReader::~ShardReader() = default;
absl::Status ShardReader::Read(int64_t offset, int64_t bytes,
                               absl::FunctionRef<absl::Status(std::string_view)> sink) {
  return impl_->Read(offset, bytes, sink);
}

}  // namespace diffmoe
