#include "core/storage/shard_files.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/kill_point.h"
#include "core/base/status_macros.h"
#include "core/storage/rocksdb_support.h"
#include "rocksdb/env.h"

namespace diffmoe::storage {

ShardFiles::ShardFiles(rocksdb::Options options, int64_t file_bytes,
                       absl::AnyInvocable<std::string()> new_path)
    : options_(std::move(options)), file_bytes_(file_bytes), new_path_(std::move(new_path)) {}

ShardFiles::~ShardFiles() {
  writer_.reset();
  for (const std::string& path : paths_) options_.env->DeleteFile(path).PermitUncheckedError();
}

absl::Status ShardFiles::Put(const ChunkKey& key, std::string_view bytes) {
  if (writer_ != nullptr && bytes_in_file_ >= file_bytes_) RETURN_IF_ERROR(FinishFile());
  if (writer_ == nullptr) {
    paths_.push_back(new_path_());
    writer_ = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(), options_);
    RETURN_IF_ERROR(
        FromRocksDb(writer_->Open(paths_.back()), absl::StrCat("create ", paths_.back())));
    bytes_in_file_ = 0;
    KillPoint("shard.file_created");
  }
  bytes_in_file_ += static_cast<int64_t>(bytes.size());
  return FromRocksDb(writer_->Put(EncodeChunkKey(key), rocksdb::Slice(bytes.data(), bytes.size())),
                     absl::StrCat("write ", paths_.back()));
}

absl::Status ShardFiles::Finish() { return writer_ == nullptr ? absl::OkStatus() : FinishFile(); }

absl::Status ShardFiles::FinishFile() {
  KillPoint("shard.before_finish");
  const rocksdb::Status status = writer_->Finish();
  writer_.reset();
  KillPoint("shard.file_finished");
  return FromRocksDb(status, absl::StrCat("complete ", paths_.back()));
}

}  // namespace diffmoe::storage
