#include "core/storage/record_db.h"

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/storage/commit_chain.h"
#include "core/storage/rocksdb_support.h"
#include "core/storage/table_guard.h"

namespace diffmoe::storage {
namespace {

constexpr size_t kMemtableBytes = size_t{16} << 20;

}  // namespace

rocksdb::Options RecordDbOptions(Recovery recovery, rocksdb::Env* env) {
  rocksdb::Options options;
  if (env != nullptr) options.env = env;
  options.paranoid_checks = true;
  options.track_and_verify_wals_in_manifest = true;
  options.wal_recovery_mode = recovery == Recovery::kStrict
                                  ? rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords
                                  : rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.write_buffer_size = kMemtableBytes;
  options.max_background_jobs = 2;
  options.max_open_files = 256;
  options.compression = rocksdb::kNoCompression;
  // Commit itself recovers from a full disk; background retries would run beside it.
  options.max_bgerror_resume_count = 0;
  options.info_log = NewRocksDbLogger("records");
  return options;
}

absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenRecordDb(const std::string& path,
                                                          Recovery recovery, rocksdb::Env* env) {
  RETURN_IF_ERROR(CheckTablesOpenable(path));
  rocksdb::DB* db = nullptr;
  RETURN_IF_ERROR(FromRocksDb(rocksdb::DB::Open(RecordDbOptions(recovery, env), path, &db),
                              absl::StrCat("open ", path)));
  return std::unique_ptr<rocksdb::DB>(db);
}

absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenRecordDbReadOnly(const std::string& path,
                                                                  Recovery recovery,
                                                                  rocksdb::Env* env) {
  RETURN_IF_ERROR(CheckTablesOpenable(path));
  rocksdb::DB* db = nullptr;
  RETURN_IF_ERROR(
      FromRocksDb(rocksdb::DB::OpenForReadOnly(RecordDbOptions(recovery, env), path, &db),
                  absl::StrCat("read ", path)));
  return std::unique_ptr<rocksdb::DB>(db);
}

absl::StatusOr<CommitPoint> InspectHead(const std::string& path, Recovery recovery,
                                        const CommitPoint& acknowledged, rocksdb::Env* env) {
  ASSIGN_OR_RETURN(std::unique_ptr<rocksdb::DB> db, OpenRecordDbReadOnly(path, recovery, env));
  ASSIGN_OR_RETURN(const CommitPoint head, ReadHead(*db));
  RETURN_IF_ERROR(CheckLinks(*db, head));
  if (head.sequence < acknowledged.sequence || acknowledged.sequence == 0) return head;
  const absl::StatusOr<ChainHash> hash = ReadLink(*db, acknowledged.sequence);
  if (absl::IsNotFound(hash.status()))
    return head;  // an old mark; the store has gone on far beyond it
  RETURN_IF_ERROR(hash.status());
  if (*hash != acknowledged.hash) {
    return absl::DataLossError(
        absl::StrCat("commit ", acknowledged.sequence,
                     " is not the one that was acknowledged: another history"));
  }
  return head;
}

}  // namespace diffmoe::storage
