#include "core/storage/chunk_store.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/atomic_file.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/storage/chunk_key.h"
#include "core/storage/chunk_repair.h"
#include "core/storage/database_copy.h"
#include "core/storage/directory_lock.h"
#include "core/storage/rocksdb_support.h"
#include "core/storage/shard_reader.h"
#include "core/storage/shard_writer.h"
#include "core/storage/table_guard.h"
#include "rocksdb/cache.h"
#include "rocksdb/convenience.h"
#include "rocksdb/db.h"
#include "rocksdb/sst_file_reader.h"
#include "rocksdb/table.h"

namespace diffmoe {
namespace {

using storage::DecodeChunkKey;
using storage::FromRocksDb;

constexpr size_t kBlockCacheBytes = size_t{16} << 20;

rocksdb::Options DbOptions(rocksdb::Env* env) {
  rocksdb::Options options;
  if (env != nullptr) options.env = env;
  options.create_if_missing = true;
  // A missing or short file must not keep the other checkpoints from being read; every read is
  // verified by the caller's checksums, and CheckPresent looks at the files.
  options.paranoid_checks = false;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.compression = rocksdb::kNoCompression;
  options.max_open_files = 256;
  options.max_background_jobs = 2;
  options.write_buffer_size = size_t{1} << 20;
  options.verify_sst_unique_id_in_manifest = false;  // ingested files have none there
  options.info_log = storage::NewRocksDbLogger("chunks");
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  table.checksum = rocksdb::kXXH3;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// The chunks of one shard that one table file holds.
struct FileRange {
  int64_t first = 0;
  int64_t last = 0;
  std::string path;
  uint64_t size = 0;
};

// RocksDB keeps the log of every earlier life in which nothing was logged, which is nearly every
// one here: opening would take longer each time.
void RemoveEmptyLogs(const std::string& path) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    std::error_code ignored;
    const bool empty = entry.path().extension() == ".log" && entry.file_size(ignored) == 0;
    if (empty && !ignored) std::filesystem::remove(entry.path(), ignored);
  }
}

absl::Status CheckFile(const FileRange& file) {
  std::error_code error;
  const auto size = std::filesystem::file_size(file.path, error);
  if (error) return absl::DataLossError(absl::StrCat("file ", file.path, ": ", error.message()));
  if (size != file.size) {
    return absl::DataLossError(
        absl::StrCat("file ", file.path, " has ", size, " bytes, expected ", file.size));
  }
  return absl::OkStatus();
}

// Whether the file's properties can be found and hold the only bytes that no checksum covers as
// they were written: RocksDB may change them at an ingest (not at ours), and with another value the
// file doesn't open again.
bool HasWrittenProperties(const rocksdb::SstFileReader& reader) {
  const auto properties = reader.GetTableProperties();
  if (properties == nullptr) return false;
  const auto& collected = properties->user_collected_properties;
  const auto seqno = collected.find("rocksdb.external_sst_file.global_seqno");
  return seqno != collected.end() && seqno->second == std::string(8, '\0');
}

// Compares the chunks of one file with their checksums, in the order of `range`.
absl::Status VerifyFile(const rocksdb::Options& options, const FileRange& range,
                        const ShardLayout& layout,
                        absl::FunctionRef<void(int64_t bytes)> on_bytes) {
  rocksdb::SstFileReader reader(options);
  RETURN_IF_ERROR(FromRocksDb(reader.Open(range.path), absl::StrCat("read ", range.path)));
  if (!HasWrittenProperties(reader)) {
    return absl::DataLossError(absl::StrCat("the properties of file ", range.path, " are damaged"));
  }
  rocksdb::ReadOptions read;
  read.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> iterator(reader.NewIterator(read));
  int64_t expected = range.first;
  for (iterator->SeekToFirst(); iterator->Valid(); iterator->Next(), ++expected) {
    const auto key = DecodeChunkKey(iterator->key().ToStringView());
    const std::string_view bytes = iterator->value().ToStringView();
    const bool right = key.has_value() && key->chunk == expected && expected <= range.last &&
                       ChunkChecksum(bytes) == layout.chunk_xxh3[static_cast<size_t>(expected)];
    if (!right) {
      return absl::DataLossError(
          absl::StrCat("chunk ", expected, " in file ", range.path, " doesn't match its checksum"));
    }
    on_bytes(static_cast<int64_t>(bytes.size()));
  }
  RETURN_IF_ERROR(FromRocksDb(iterator->status(), absl::StrCat("read ", range.path)));
  if (expected == range.last + 1) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("file ", range.path, " ends before chunk ", expected));
}

}  // namespace

uint64_t ChunkChecksum(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

class ChunkStore::Impl {
 public:
  Impl(DirectoryLock lock, const ChunkStoreOptions& options)
      : lock_(std::move(lock)), options_(options), db_options_(DbOptions(options.env)) {}
  ~Impl() {
    if (db_ != nullptr) db_->Close().PermitUncheckedError();
  }

  absl::Status Start();
  absl::Status ForgetUnlisted() const { return storage::ForgetUnlisted(lock_.directory()); }
  absl::StatusOr<std::unique_ptr<ShardWriter::Impl>> NewShard(const CheckpointId& id, int shard,
                                                              int64_t bytes);
  absl::Status Ingest(const CheckpointId& id, const std::vector<ShardWriter::Impl*>& shards);
  absl::Status CheckPresent(const CheckpointId& id, const ShardLayout& layout) const;
  absl::Status Verify(const CheckpointId& id, const ShardLayout& layout,
                      absl::FunctionRef<void(int64_t bytes)> on_bytes) const;
  absl::Status VerifyIndex() const;
  absl::Status BackUp(const std::string& directory) const;
  absl::Status Delete(const CheckpointId& id);
  std::vector<StoredCheckpoint> List() const;
  rocksdb::DB* db() const { return db_.get(); }

 private:
  std::string work_path() const { return lock_.directory() + "/work"; }
  absl::Status OpenDb();
  absl::Status Damaged(absl::string_view why) const;
  absl::Status SweepWorkFiles();
  absl::Status CheckSpace(int64_t bytes) const;
  absl::Status ResumeIfStopped() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::StatusOr<bool> HasKeys(const CheckpointId& id) const;
  std::vector<FileRange> FilesOf(const CheckpointId& id, int shard) const;
  // Their numbers of entries are unknown beyond the first 20 files after an open, so nothing may
  // depend on them. A file that holds nothing but a deleted range begins with no chunk's key.
  std::vector<rocksdb::LiveFileMetaData> Files() const {
    std::vector<rocksdb::LiveFileMetaData> files;
    db_->GetLiveFilesMetaData(&files);
    return files;
  }

  const DirectoryLock lock_;
  const ChunkStoreOptions options_;
  const rocksdb::Options db_options_;
  std::atomic<uint64_t> next_file_{1};
  mutable absl::Mutex write_mutex_;  // one ingest or delete at a time
  bool stopped_ ABSL_GUARDED_BY(write_mutex_) = false;
  std::unique_ptr<rocksdb::DB> db_;
};

absl::Status ChunkStore::Impl::Damaged(absl::string_view why) const {
  return absl::DataLossError(absl::StrCat(
      "chunk store ", lock_.directory(), " is damaged: ", why,
      "; no checkpoint can be read. Restore the directory from a backup, or start once with "
      "--accept-data-loss to list again what its tables hold"));
}

absl::Status ChunkStore::Impl::OpenDb() {
  const std::string path = lock_.directory() + "/db";
  if (storage::IsHalfRebuilt(lock_.directory())) return Damaged("a repair was interrupted");
  std::error_code error;
  if (!std::filesystem::exists(path + "/CURRENT", error)) {
    for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
      if (entry.path().extension() == ".sst")
        return Damaged(absl::StrCat(path, "/CURRENT is missing"));
    }
  }
  RemoveEmptyLogs(path);
  std::filesystem::create_directories(path, error);
  if (error) return FileError(error.value(), "create", path);
  RETURN_IF_ERROR(storage::SetUnlistedAside(lock_.directory(), db_options_));
  rocksdb::DB* db = nullptr;
  const absl::Status opened =
      FromRocksDb(rocksdb::DB::Open(db_options_, path, &db), absl::StrCat("open ", path));
  if (absl::IsDataLoss(opened)) return Damaged(opened.message());
  RETURN_IF_ERROR(opened);
  db_.reset(db);
  return absl::OkStatus();
}

absl::Status ChunkStore::Impl::Start() {
  RETURN_IF_ERROR(SweepWorkFiles());
  for (const char* tables : {"/db", "/unlisted"}) {
    RETURN_IF_ERROR(
        storage::SetUnopenableAside(lock_.directory() + tables, lock_.directory() + "/damaged"));
  }
  absl::Status opened = OpenDb();
  const bool incomplete = opened.ok() && storage::HasUnlisted(lock_.directory());
  if (options_.accept_loss && (absl::IsDataLoss(opened) || incomplete)) {
    LogWarning("chunks", "listing all tables anew",
               {{"path", lock_.directory()}, {"reason", opened.message()}});
    db_.reset();
    ASSIGN_OR_RETURN(const storage::RebuildResult rebuilt,
                     storage::RebuildFromTables(lock_.directory(), db_options_));
    LogWarning("chunks", "listed all tables anew",
               {{"tables", rebuilt.tables}, {"unreadable", rebuilt.unreadable}});
    opened = OpenDb();
  }
  RETURN_IF_ERROR(opened);
  KillPoint("chunks.opened");
  return absl::OkStatus();
}

absl::Status ChunkStore::Impl::SweepWorkFiles() {
  std::error_code error;
  std::filesystem::create_directories(work_path(), error);
  if (error)
    return absl::InternalError(absl::StrCat("cannot create ", work_path(), ": ", error.message()));
  int64_t swept = 0;
  for (const auto& entry : std::filesystem::directory_iterator(work_path(), error)) {
    if (entry.path().extension() != ".sst") continue;
    std::error_code removal;
    KillPoint("chunks.before_sweep");
    std::filesystem::remove(entry.path(), removal);
    KillPoint("chunks.swept");
    if (removal)
      return absl::InternalError(
          absl::StrCat("cannot remove ", entry.path().string(), ": ", removal.message()));
    ++swept;
  }
  if (swept > 0)
    LogInfo("chunks", "removed unfinished files", {{"files", swept}, {"path", work_path()}});
  return absl::OkStatus();
}

absl::Status ChunkStore::Impl::CheckSpace(int64_t bytes) const {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(work_path(), error);
  if (error)
    return absl::InternalError(
        absl::StrCat("cannot ask ", work_path(), " for space: ", error.message()));
  const uint64_t needed =
      static_cast<uint64_t>(bytes) + static_cast<uint64_t>(options_.reserve_bytes);
  if (space.available < needed) {
    return absl::ResourceExhaustedError(absl::StrCat("disk of ", lock_.directory(), " has ",
                                                     space.available, " bytes free, a shard of ",
                                                     bytes, " needs ", needed));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ShardWriter::Impl>> ChunkStore::Impl::NewShard(
    const CheckpointId& id, int shard, int64_t bytes) {
  RETURN_IF_ERROR(storage::CheckId(id));
  if (shard < 0 || shard > storage::kMaxShard) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard must be 0 to ", storage::kMaxShard, ", got ", shard));
  }
  if (bytes < 0 || bytes / kChunkBytes > storage::kMaxChunk) {
    return absl::InvalidArgumentError(absl::StrCat("a shard can't have ", bytes, " bytes"));
  }
  RETURN_IF_ERROR(CheckSpace(bytes));
  auto files = std::make_unique<storage::ShardFiles>(db_options_, options_.file_bytes, [this] {
    return absl::StrCat(work_path(), "/", absl::Dec(next_file_++, absl::kZeroPad8), ".sst");
  });
  return std::make_unique<ShardWriter::Impl>(id, shard, bytes, std::move(files));
}

absl::Status ChunkStore::Impl::ResumeIfStopped() {
  if (!stopped_) return absl::OkStatus();
  RETURN_IF_ERROR(
      FromRocksDb(db_->Resume(), absl::StrCat("write to ", lock_.directory(), " again")));
  stopped_ = false;
  return absl::OkStatus();
}

absl::Status ChunkStore::Impl::Ingest(const CheckpointId& id,
                                      const std::vector<ShardWriter::Impl*>& shards) {
  rocksdb::IngestExternalFileOptions ingest;
  ingest.move_files = true;
  ingest.failed_move_fall_back_to_copy = false;
  ingest.write_global_seqno = false;
  std::vector<std::string> paths;
  for (ShardWriter::Impl* shard : shards) {
    if (shard->id() != id || !shard->sealed()) {
      return absl::InvalidArgumentError(absl::StrCat("shard ", shard->layout().shard, " of ",
                                                     ToString(shard->id()),
                                                     " can't become part of ", ToString(id)));
    }
    paths.insert(paths.end(), shard->files().paths().begin(), shard->files().paths().end());
  }
  absl::MutexLock lock(&write_mutex_);
  RETURN_IF_ERROR(ResumeIfStopped());
  ASSIGN_OR_RETURN(const bool taken, HasKeys(id));
  if (taken)
    return absl::AlreadyExistsError(
        absl::StrCat("bytes of ", ToString(id), " are in the chunk store already"));
  if (paths.empty()) return absl::OkStatus();
  KillPoint("chunks.before_ingest");
  const rocksdb::Status status = db_->IngestExternalFile(paths, ingest);
  KillPoint("chunks.ingested");
  if (!status.ok()) {
    stopped_ = true;
    return FromRocksDb(status, absl::StrCat("commit the bytes of ", ToString(id)));
  }
  for (ShardWriter::Impl* shard : shards) shard->files().Release();
  return absl::OkStatus();
}

// Looks at the files only: a key read would read its chunk too.
absl::StatusOr<bool> ChunkStore::Impl::HasKeys(const CheckpointId& id) const {
  for (const rocksdb::LiveFileMetaData& file : Files()) {
    const auto first = DecodeChunkKey(file.smallestkey);
    if (first.has_value() && first->id == id) return true;
  }
  return false;
}

// In the order of their chunks.
std::vector<FileRange> ChunkStore::Impl::FilesOf(const CheckpointId& id, int shard) const {
  std::vector<FileRange> ranges;
  for (const rocksdb::LiveFileMetaData& file : Files()) {
    const auto first = DecodeChunkKey(file.smallestkey);
    const auto last = DecodeChunkKey(file.largestkey);
    if (!first.has_value() || !last.has_value() || first->id != id || first->shard != shard)
      continue;
    ranges.push_back({first->chunk, last->chunk, file.db_path + file.name, file.size});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const FileRange& a, const FileRange& b) { return a.first < b.first; });
  return ranges;
}

absl::Status ChunkStore::Impl::CheckPresent(const CheckpointId& id,
                                            const ShardLayout& layout) const {
  RETURN_IF_ERROR(CheckLayout(id, layout));
  const std::vector<FileRange> ranges = FilesOf(id, layout.shard);
  const std::string where = absl::StrCat("shard ", layout.shard, " of ", ToString(id));
  int64_t next = 0;
  for (const FileRange& range : ranges) {
    const absl::Status status = CheckFile(range);
    if (!status.ok()) return absl::DataLossError(absl::StrCat(where, ": ", status.message()));
    if (range.first != next) break;
    next = range.last + 1;
  }
  const int64_t chunks = static_cast<int64_t>(layout.chunk_xxh3.size());
  if (next == chunks) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(where, ": chunk ", next, " of ", chunks, " is missing"));
}

absl::Status ChunkStore::Impl::Verify(const CheckpointId& id, const ShardLayout& layout,
                                      absl::FunctionRef<void(int64_t bytes)> on_bytes) const {
  RETURN_IF_ERROR(CheckPresent(id, layout));
  for (const FileRange& range : FilesOf(id, layout.shard)) {
    const absl::Status status = VerifyFile(db_options_, range, layout, on_bytes);
    if (!status.ok()) {
      return absl::DataLossError(
          absl::StrCat("shard ", layout.shard, " of ", ToString(id), ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status ChunkStore::Impl::VerifyIndex() const {
  const auto names = [](rocksdb::DB& db) {
    std::vector<rocksdb::LiveFileMetaData> files;
    db.GetLiveFilesMetaData(&files);
    std::set<std::string> found;
    for (const rocksdb::LiveFileMetaData& file : files) found.insert(file.name);
    return found;
  };
  absl::MutexLock lock(&write_mutex_);
  const std::string path = lock_.directory() + "/db";
  const std::string action = absl::StrCat("verify ", path);
  RETURN_IF_ERROR(FromRocksDb(db_->DisableFileDeletions(), action));
  rocksdb::DB* opened = nullptr;
  rocksdb::Status status = rocksdb::DB::OpenForReadOnly(db_options_, path, &opened);
  const std::unique_ptr<rocksdb::DB> again(opened);
  const bool same = status.ok() && names(*again) == names(*db_);
  RETURN_IF_ERROR(FromRocksDb(db_->EnableFileDeletions(/*force=*/false), action));
  RETURN_IF_ERROR(FromRocksDb(status, action));
  if (same) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, ": its MANIFEST file lists other files than are in use"));
}

absl::Status ChunkStore::Impl::BackUp(const std::string& directory) const {
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  if (error) return FileError(error.value(), "create", directory);
  return storage::CopyDatabase(*db_, directory + "/db");
}

absl::Status ChunkStore::Impl::Delete(const CheckpointId& id) {
  RETURN_IF_ERROR(storage::CheckId(id));
  const std::string begin = storage::CheckpointBegin(id);
  const std::string end = storage::CheckpointEnd(id);
  const rocksdb::Slice first(begin), last(end);
  const std::string action = absl::StrCat("delete the bytes of ", ToString(id));
  absl::MutexLock lock(&write_mutex_);
  RETURN_IF_ERROR(ResumeIfStopped());
  rocksdb::ColumnFamilyHandle* family = db_->DefaultColumnFamily();
  KillPoint("chunks.before_delete");
  rocksdb::Status status =
      rocksdb::DeleteFilesInRange(db_.get(), family, &first, &last, /*include_end=*/false);
  KillPoint("chunks.files_deleted");
  if (!status.ok()) {
    stopped_ = true;
    return FromRocksDb(status, action);
  }
  // Files in level 0, or being moved, are left by that call.
  ASSIGN_OR_RETURN(const bool left, HasKeys(id));
  if (!left) return absl::OkStatus();
  rocksdb::WriteOptions synced;
  synced.sync = true;
  RETURN_IF_ERROR(FromRocksDb(db_->DeleteRange(synced, family, first, last), action));
  return FromRocksDb(db_->CompactRange(rocksdb::CompactRangeOptions(), &first, &last), action);
}

std::vector<StoredCheckpoint> ChunkStore::Impl::List() const {
  std::map<CheckpointId, int64_t> bytes;
  for (const rocksdb::LiveFileMetaData& file : Files()) {
    const auto first = DecodeChunkKey(file.smallestkey);
    if (!first.has_value()) continue;
    bytes[first->id] += static_cast<int64_t>(file.size);
  }
  std::vector<StoredCheckpoint> checkpoints;
  checkpoints.reserve(bytes.size());
  for (const auto& [id, size] : bytes) checkpoints.push_back({id, size});
  return checkpoints;
}

absl::StatusOr<std::unique_ptr<ChunkStore>> ChunkStore::Open(const std::string& directory,
                                                             const ChunkStoreOptions& options) {
  ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Acquire(directory));
  auto impl = std::make_unique<Impl>(std::move(lock), options);
  RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<ChunkStore>(new ChunkStore(std::move(impl)));
}

ChunkStore::ChunkStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChunkStore::~ChunkStore() = default;

absl::StatusOr<std::unique_ptr<ShardWriter>> ChunkStore::NewShard(const CheckpointId& id, int shard,
                                                                  int64_t bytes) {
  ASSIGN_OR_RETURN(auto writer, impl_->NewShard(id, shard, bytes));
  return std::unique_ptr<ShardWriter>(new ShardWriter(std::move(writer)));
}

absl::Status ChunkStore::Ingest(const CheckpointId& id,
                                std::vector<std::unique_ptr<ShardWriter>> shards) {
  const std::vector<std::unique_ptr<ShardWriter>> owned = std::move(shards);
  std::vector<ShardWriter::Impl*> writers;
  writers.reserve(owned.size());
  for (const auto& shard : owned) writers.push_back(shard->impl_.get());
  return impl_->Ingest(id, writers);
}

std::unique_ptr<ShardReader> ChunkStore::NewReader(const CheckpointId& id,
                                                   ShardLayout layout) const {
  return std::unique_ptr<ShardReader>(
      new ShardReader(std::make_unique<ShardReader::Impl>(impl_->db(), id, std::move(layout))));
}

absl::Status ChunkStore::CheckPresent(const CheckpointId& id, const ShardLayout& layout) const {
  return impl_->CheckPresent(id, layout);
}
absl::Status ChunkStore::Verify(const CheckpointId& id, const ShardLayout& layout,
                                absl::FunctionRef<void(int64_t bytes)> on_bytes) const {
  return impl_->Verify(id, layout, on_bytes);
}
absl::Status ChunkStore::VerifyIndex() const { return impl_->VerifyIndex(); }
absl::Status ChunkStore::BackUp(const std::string& directory) const {
  return impl_->BackUp(directory);
}
absl::Status ChunkStore::Delete(const CheckpointId& id) { return impl_->Delete(id); }
std::vector<StoredCheckpoint> ChunkStore::List() const { return impl_->List(); }
absl::Status ChunkStore::ForgetUnlisted() { return impl_->ForgetUnlisted(); }
int64_t ChunkStore::size_bytes() const {
  uint64_t bytes = 0;
  impl_->db()->GetIntProperty("rocksdb.live-sst-files-size", &bytes);
  return static_cast<int64_t>(bytes);
}

}  // namespace diffmoe
