#include "core/storage/record_store.h"

#include <algorithm>
#include <filesystem>
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
#include "core/storage/commit_chain.h"
#include "core/storage/database_copy.h"
#include "core/storage/directory_lock.h"
#include "core/storage/high_water_mark.h"
#include "core/storage/record_db.h"
#include "core/storage/rocksdb_support.h"
#include "core/storage/space_probe.h"
#include "core/storage/table_guard.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace diffmoe {
namespace {

using storage::CommitPoint;
using storage::FromRocksDb;
using storage::HighWaterMark;
using storage::InspectHead;
using storage::OpenRecordDb;
using storage::OpenRecordDbReadOnly;
using storage::Recovery;

constexpr char kRepair[] =
    "restore the directory from a backup, or start once with --accept-data-loss to go on without "
    "the lost part";

absl::Status Lost(const std::string& directory, int64_t recoverable, int64_t acknowledged,
                  absl::string_view why) {
  std::string range = "which commits are missing is unknown";
  if (acknowledged > recoverable) {
    range = absl::StrCat("acknowledged commits ", recoverable + 1, " to ", acknowledged,
                         " would be lost");
  }
  return absl::DataLossError(
      absl::StrCat("record store ", directory, " is damaged: ", why, "; ", range, "; ", kRepair));
}

bool HasFiles(const std::string& path) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".sst" || (extension == ".log" && entry.file_size(error) > 0)) return true;
  }
  return false;
}

absl::Status CheckKeys(absl::Span<const RecordWrite> writes) {
  for (const RecordWrite& write : writes) {
    if (write.key.empty() || write.key[0] == '\0') {
      return absl::InvalidArgumentError(
          "a record's key must not be empty or start with a zero byte");
    }
  }
  return absl::OkStatus();
}

}  // namespace

class RecordStore::Impl {
 public:
  Impl(DirectoryLock lock, HighWaterMark mark, const RecordStoreOptions& options)
      : lock_(std::move(lock)), options_(options), mark_(std::move(mark)) {}
  ~Impl() {
    absl::MutexLock lock(&db_mutex_);
    if (db_ != nullptr) db_->Close().PermitUncheckedError();
  }

  absl::Status Start();
  absl::Status StartAcceptingLoss();
  absl::Status Commit(absl::Span<const RecordWrite> writes);
  absl::StatusOr<std::string> Get(std::string_view key) const;
  absl::Status Scan(std::string_view prefix,
                    const std::function<bool(std::string_view, std::string_view)>& visit) const;
  absl::Status Verify() const;
  absl::StatusOr<int64_t> BackUp(const std::string& directory) const;
  int64_t sequence() const {
    absl::MutexLock lock(&commit_mutex_);
    return head_.sequence;
  }
  int64_t size_bytes() const;

 private:
  std::string db_path() const { return lock_.directory() + "/db"; }
  std::string mark_path() const { return lock_.directory() + "/mark"; }
  absl::Status CreateNew();
  absl::StatusOr<Recovery> ChooseRecovery() const;
  absl::Status Write(const CommitPoint& point, absl::Span<const RecordWrite> writes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  absl::Status OnFailedWrite(const rocksdb::Status& failure, const CommitPoint& point,
                             absl::Span<const RecordWrite> writes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  absl::Status VerifyTables() const;
  absl::Status RecoverFromFullDisk() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  absl::Status Unusable() const ABSL_SHARED_LOCKS_REQUIRED(db_mutex_) {
    return absl::UnavailableError(
        absl::StrCat("record store ", lock_.directory(), " could not be opened again"));
  }

  const DirectoryLock lock_;
  const RecordStoreOptions options_;

  mutable absl::Mutex commit_mutex_ ABSL_ACQUIRED_BEFORE(db_mutex_);
  HighWaterMark mark_ ABSL_GUARDED_BY(commit_mutex_);
  CommitPoint head_ ABSL_GUARDED_BY(commit_mutex_);
  absl::Status stopped_ ABSL_GUARDED_BY(commit_mutex_);  // not OK: no commit is accepted any more
  bool disk_was_full_ ABSL_GUARDED_BY(commit_mutex_) = false;
  // The commit that failed on a full disk. Its bytes may be in the log all the same; `undo_` takes
  // it back then.
  CommitPoint failed_ ABSL_GUARDED_BY(commit_mutex_);
  std::vector<RecordWrite> undo_ ABSL_GUARDED_BY(commit_mutex_);

  mutable absl::Mutex db_mutex_;
  std::unique_ptr<rocksdb::DB> db_ ABSL_GUARDED_BY(db_mutex_);
};

absl::Status RecordStore::Impl::CreateNew() {
  rocksdb::Options options = storage::RecordDbOptions(Recovery::kStrict, options_.env);
  std::error_code error;
  std::filesystem::create_directory(db_path(), error);
  if (error) return FileError(error.value(), "create", db_path());
  // What an interrupted creation has left.
  RETURN_IF_ERROR(
      FromRocksDb(rocksdb::DestroyDB(db_path(), options), absl::StrCat("clear ", db_path())));
  std::filesystem::create_directory(db_path(), error);
  if (error) return FileError(error.value(), "create", db_path());
  options.create_if_missing = true;
  options.error_if_exists = true;
  rocksdb::DB* db = nullptr;
  RETURN_IF_ERROR(
      FromRocksDb(rocksdb::DB::Open(options, db_path(), &db), absl::StrCat("create ", db_path())));
  absl::MutexLock commit_lock(&commit_mutex_);
  absl::MutexLock lock(&db_mutex_);
  db_.reset(db);
  KillPoint("records.created");
  RETURN_IF_ERROR(mark_.Set(head_));
  KillPoint("records.creation_marked");
  return absl::OkStatus();
}

absl::StatusOr<Recovery> RecordStore::Impl::ChooseRecovery() const {
  absl::MutexLock lock(&commit_mutex_);
  const CommitPoint acknowledged = mark_.point().value_or(CommitPoint{});
  const absl::StatusOr<CommitPoint> strict =
      InspectHead(db_path(), Recovery::kStrict, acknowledged, options_.env);
  if (strict.ok()) {
    if (strict->sequence < acknowledged.sequence) {
      return Lost(
          lock_.directory(), strict->sequence, acknowledged.sequence,
          absl::StrCat("it ends at commit ", strict->sequence, ", but ", acknowledged.sequence,
                       " was acknowledged (a log file was deleted, cut or not written)"));
    }
    if (!mark_.point().has_value() && strict->sequence > 0) {
      return Lost(lock_.directory(), strict->sequence, 0,
                  "the high-water mark (file mark) is missing");
    }
    return Recovery::kStrict;
  }
  if (!absl::IsDataLoss(strict.status())) return strict.status();
  // Damage behind everything acknowledged is a torn tail, whatever it looks like.
  const absl::StatusOr<CommitPoint> cut =
      InspectHead(db_path(), Recovery::kUpToDamage, acknowledged, options_.env);
  if (cut.ok() && mark_.point().has_value() && cut->sequence >= acknowledged.sequence)
    return Recovery::kUpToDamage;
  return Lost(lock_.directory(), cut.ok() ? cut->sequence : 0, acknowledged.sequence,
              strict.status().message());
}

absl::Status RecordStore::Impl::Start() {
  std::error_code error;
  if (!std::filesystem::exists(db_path() + "/CURRENT", error)) {
    absl::ReleasableMutexLock lock(&commit_mutex_);
    const int64_t acknowledged = mark_.point().value_or(CommitPoint{}).sequence;
    lock.Release();
    if (acknowledged > 0 || HasFiles(db_path())) {
      return Lost(lock_.directory(), 0, acknowledged,
                  absl::StrCat("file ", db_path(), "/CURRENT is missing"));
    }
    return CreateNew();
  }
  ASSIGN_OR_RETURN(const Recovery recovery, ChooseRecovery());
  ASSIGN_OR_RETURN(std::unique_ptr<rocksdb::DB> db,
                   OpenRecordDb(db_path(), recovery, options_.env));
  ASSIGN_OR_RETURN(const CommitPoint head, storage::ReadHead(*db));
  absl::MutexLock commit_lock(&commit_mutex_);
  absl::MutexLock lock(&db_mutex_);
  db_ = std::move(db);
  head_ = head;
  // Also for a commit that was written but not acknowledged: from now on it may be seen, so it may
  // not be lost.
  if (mark_.point() != head) {
    KillPoint("records.opened_ahead_of_mark");
    return mark_.Set(head);
  }
  return absl::OkStatus();
}

absl::Status RecordStore::Impl::StartAcceptingLoss() {
  RETURN_IF_ERROR(storage::SetUnopenableAside(db_path(), lock_.directory() + "/damaged"));
  absl::StatusOr<std::unique_ptr<rocksdb::DB>> db =
      OpenRecordDb(db_path(), Recovery::kUpToDamage, options_.env);
  if (!db.ok() && HasFiles(db_path())) {
    LogWarning("records", "rebuilding from table and log files",
               {{"path", db_path()}, {"reason", db.status().message()}});
    const rocksdb::Status repaired =
        rocksdb::RepairDB(db_path(), storage::RecordDbOptions(Recovery::kUpToDamage, options_.env));
    RETURN_IF_ERROR(FromRocksDb(repaired, absl::StrCat("repair ", db_path())));
    db = OpenRecordDb(db_path(), Recovery::kUpToDamage, options_.env);
  } else if (!db.ok()) {
    return CreateNew();
  }
  RETURN_IF_ERROR(db.status());
  ASSIGN_OR_RETURN(const CommitPoint head, storage::ReadHead(**db));
  absl::MutexLock commit_lock(&commit_mutex_);
  const int64_t acknowledged = mark_.point().value_or(CommitPoint{}).sequence;
  rocksdb::WriteBatch batch;
  rocksdb::WriteOptions synced;
  synced.sync = true;
  rocksdb::Status status = storage::AddBase(head, batch);
  if (status.ok()) status = (*db)->Write(synced, &batch);
  RETURN_IF_ERROR(FromRocksDb(status, absl::StrCat("write to ", db_path())));
  KillPoint("records.loss_accepted");
  absl::MutexLock lock(&db_mutex_);
  db_ = *std::move(db);
  head_ = head;
  LogWarning(
      "records", "going on with a loss that was accepted",
      {{"path", lock_.directory()}, {"commit", head.sequence}, {"acknowledged", acknowledged}});
  RETURN_IF_ERROR(mark_.Set(head));
  KillPoint("records.loss_marked");
  return absl::OkStatus();
}

absl::Status RecordStore::Impl::Commit(absl::Span<const RecordWrite> writes) {
  if (writes.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckKeys(writes));
  absl::MutexLock lock(&commit_mutex_);
  RETURN_IF_ERROR(stopped_);
  if (disk_was_full_) RETURN_IF_ERROR(RecoverFromFullDisk());
  return Write(storage::NextCommit(head_, writes), writes);
}

absl::Status RecordStore::Impl::Write(const CommitPoint& point,
                                      absl::Span<const RecordWrite> writes) {
  rocksdb::WriteBatch batch;
  rocksdb::Status status;
  for (const RecordWrite& write : writes) {
    status = write.value.has_value() ? batch.Put(write.key, *write.value) : batch.Delete(write.key);
    if (!status.ok()) return FromRocksDb(status, "build a commit");
  }
  status = storage::AddLink(point, batch);
  if (!status.ok()) return FromRocksDb(status, "build a commit");
  rocksdb::WriteOptions synced;
  synced.sync = true;
  {
    absl::ReaderMutexLock lock(&db_mutex_);
    if (db_ == nullptr) return Unusable();
    KillPoint("records.before_write");
    status = db_->Write(synced, &batch);
  }
  if (!status.ok()) return OnFailedWrite(status, point, writes);
  KillPoint("records.written");
  const absl::Status marked = mark_.Set(point);
  KillPoint("records.marked");
  if (!marked.ok()) {
    stopped_ = absl::InternalError(
        absl::StrCat("record store ", lock_.directory(), " has stopped: ", marked.message()));
    return stopped_;
  }
  head_ = point;
  return absl::OkStatus();
}

absl::Status RecordStore::Impl::OnFailedWrite(const rocksdb::Status& failure,
                                              const CommitPoint& point,
                                              absl::Span<const RecordWrite> writes) {
  absl::Status status = FromRocksDb(failure, absl::StrCat("commit to ", lock_.directory()));
  LogError("records", "commit failed", {{"commit", point.sequence}, {"reason", status.message()}});
  if (!absl::IsResourceExhausted(status)) {
    stopped_ = absl::InternalError(
        absl::StrCat("record store ", lock_.directory(), " has stopped: ", status.message()));
    return stopped_;
  }
  disk_was_full_ = true;
  failed_ = point;
  undo_.clear();
  std::set<std::string_view> seen;
  absl::ReaderMutexLock lock(&db_mutex_);
  for (const RecordWrite& write : writes) {
    if (!seen.insert(write.key).second) continue;
    std::string value;
    const rocksdb::Status got = db_->Get(rocksdb::ReadOptions(), write.key, &value);
    if (!got.ok() && !got.IsNotFound()) {
      stopped_ =
          FromRocksDb(got, absl::StrCat("read ", lock_.directory(), " after a failed commit"));
      return stopped_;
    }
    undo_.push_back({write.key, got.ok() ? std::make_optional(std::move(value)) : std::nullopt});
  }
  return status;
}

// Opens RocksDB anew: its log may end in half a record, behind which nothing may be written.
absl::Status RecordStore::Impl::RecoverFromFullDisk() {
  RETURN_IF_ERROR(storage::ProbeSpace(lock_.directory(), int64_t{2} << 20, options_.env));
  CommitPoint found;
  KillPoint("records.space_found");
  {
    absl::MutexLock lock(&db_mutex_);
    if (db_ != nullptr) db_->Close().PermitUncheckedError();
    db_.reset();
    absl::StatusOr<std::unique_ptr<rocksdb::DB>> db =
        OpenRecordDb(db_path(), Recovery::kUpToDamage, options_.env);
    if (!db.ok()) {
      // Reads go on.
      absl::StatusOr<std::unique_ptr<rocksdb::DB>> read_only =
          OpenRecordDbReadOnly(db_path(), Recovery::kUpToDamage, options_.env);
      if (read_only.ok()) db_ = *std::move(read_only);
      return db.status();
    }
    db_ = *std::move(db);
    ASSIGN_OR_RETURN(found, storage::ReadHead(*db_));
  }
  if (found != head_ && found != failed_) {
    stopped_ = Lost(lock_.directory(), found.sequence, head_.sequence,
                    "commits vanished while the disk was full");
    return stopped_;
  }
  KillPoint("records.reopened_after_full_disk");
  disk_was_full_ = false;
  LogInfo("records", "writing again after a full disk", {{"path", lock_.directory()}});
  if (found == head_) return absl::OkStatus();
  head_ = found;
  RETURN_IF_ERROR(Write(storage::NextCommit(found, undo_), std::exchange(undo_, {})));
  KillPoint("records.undone_after_full_disk");
  return absl::OkStatus();
}

absl::StatusOr<std::string> RecordStore::Impl::Get(std::string_view key) const {
  absl::ReaderMutexLock lock(&db_mutex_);
  if (db_ == nullptr) return Unusable();
  std::string value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), rocksdb::Slice(key.data(), key.size()), &value);
  if (status.ok()) return value;
  return FromRocksDb(status,
                     absl::StrCat("read record ", EscapeForLog(key), " of ", lock_.directory()));
}

absl::Status RecordStore::Impl::Scan(
    std::string_view prefix,
    const std::function<bool(std::string_view, std::string_view)>& visit) const {
  absl::ReaderMutexLock lock(&db_mutex_);
  if (db_ == nullptr) return Unusable();
  std::unique_ptr<rocksdb::Iterator> iterator(db_->NewIterator(rocksdb::ReadOptions()));
  const rocksdb::Slice start(prefix.data(), prefix.size());
  for (iterator->Seek(start); iterator->Valid() && iterator->key().starts_with(start);
       iterator->Next()) {
    const rocksdb::Slice key = iterator->key();
    if (key[0] == '\0') continue;  // the store's own
    if (!visit(key.ToStringView(), iterator->value().ToStringView())) break;
  }
  return FromRocksDb(iterator->status(), absl::StrCat("scan records ", EscapeForLog(prefix), " of ",
                                                      lock_.directory()));
}

absl::Status RecordStore::Impl::VerifyTables() const {
  absl::ReaderMutexLock lock(&db_mutex_);
  if (db_ == nullptr) return Unusable();
  return FromRocksDb(db_->VerifyChecksum(rocksdb::ReadOptions()),
                     absl::StrCat("verify ", lock_.directory()));
}

absl::Status RecordStore::Impl::Verify() const {
  RETURN_IF_ERROR(VerifyTables());
  absl::MutexLock commit_lock(&commit_mutex_);
  RETURN_IF_ERROR(stopped_);
  if (disk_was_full_) return absl::OkStatus();  // its log is read and replaced by the next commit
  absl::ReaderMutexLock lock(&db_mutex_);
  if (db_ == nullptr) return Unusable();
  const std::string action = absl::StrCat("verify ", lock_.directory());
  RETURN_IF_ERROR(FromRocksDb(db_->DisableFileDeletions(), action));
  const absl::StatusOr<CommitPoint> found =
      InspectHead(db_path(), Recovery::kStrict, head_, options_.env);
  RETURN_IF_ERROR(FromRocksDb(db_->EnableFileDeletions(/*force=*/false), action));
  RETURN_IF_ERROR(found.status());
  if (*found != head_) {
    return absl::DataLossError(absl::StrCat("log of ", db_path(), " ends at commit ",
                                            found->sequence, ", expected ", head_.sequence));
  }
  ASSIGN_OR_RETURN(const HighWaterMark mark, HighWaterMark::Open(mark_path()));
  if (mark.point() != head_) {
    return absl::DataLossError(absl::StrCat("the high-water mark ", mark_path(), " names commit ",
                                            mark.point().value_or(CommitPoint{}).sequence,
                                            ", expected ", head_.sequence));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RecordStore::Impl::BackUp(const std::string& directory) const {
  absl::MutexLock commit_lock(&commit_mutex_);
  RETURN_IF_ERROR(stopped_);
  if (disk_was_full_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("record store ", lock_.directory(), ": its disk is full"));
  }
  absl::ReaderMutexLock lock(&db_mutex_);
  if (db_ == nullptr) return Unusable();
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  if (error) return FileError(error.value(), "create", directory);
  RETURN_IF_ERROR(storage::CopyDatabase(*db_, directory + "/db"));
  RETURN_IF_ERROR(HighWaterMark::Recreate(directory + "/mark", head_).status());
  return head_.sequence;
}

int64_t RecordStore::Impl::size_bytes() const {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(db_path(), error)) {
    std::error_code size_error;
    const auto size = entry.file_size(size_error);
    if (!size_error) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<RecordStore>> RecordStore::Open(const std::string& directory,
                                                               const RecordStoreOptions& options) {
  ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Acquire(directory));
  const std::string mark_path = directory + "/mark";
  RemoveUnfinished(mark_path);
  absl::StatusOr<HighWaterMark> mark = HighWaterMark::Open(mark_path);
  if (absl::IsDataLoss(mark.status())) {
    if (!options.accept_loss) return Lost(directory, 0, 0, mark.status().message());
    mark = HighWaterMark::Recreate(mark_path, CommitPoint{});
  }
  RETURN_IF_ERROR(mark.status());
  auto impl = std::make_unique<Impl>(std::move(lock), *std::move(mark), options);
  RETURN_IF_ERROR(options.accept_loss ? impl->StartAcceptingLoss() : impl->Start());
  return std::unique_ptr<RecordStore>(new RecordStore(std::move(impl)));
}

RecordStore::RecordStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RecordStore::~RecordStore() = default;
absl::Status RecordStore::Commit(absl::Span<const RecordWrite> writes) {
  return impl_->Commit(writes);
}
absl::StatusOr<std::string> RecordStore::Get(std::string_view key) const { return impl_->Get(key); }
absl::Status RecordStore::Scan(
    std::string_view prefix,
    const std::function<bool(std::string_view, std::string_view)>& visit) const {
  return impl_->Scan(prefix, visit);
}
absl::Status RecordStore::Verify() const { return impl_->Verify(); }
absl::StatusOr<int64_t> RecordStore::BackUp(const std::string& directory) const {
  return impl_->BackUp(directory);
}
int64_t RecordStore::sequence() const { return impl_->sequence(); }
int64_t RecordStore::size_bytes() const { return impl_->size_bytes(); }

}  // namespace diffmoe
