// The RocksDB inside a RecordStore: how it is opened, and what an opening would bring back.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/storage/high_water_mark.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"

namespace diffmoe::storage {

enum class Recovery {
  kStrict,      // damage in the log is an error, but for a torn tail
  kUpToDamage,  // what comes before the damage is kept
};

rocksdb::Options RecordDbOptions(Recovery recovery, rocksdb::Env* env);

// Errors as FromRocksDb.
absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenRecordDb(const std::string& path,
                                                          Recovery recovery, rocksdb::Env* env);
// Changes nothing on disk.
absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenRecordDbReadOnly(const std::string& path,
                                                                  Recovery recovery,
                                                                  rocksdb::Env* env);

// What a recovery would bring back, found without changing a byte: the newest commit, or why there
// is none (DATA_LOSS). `acknowledged`: the commit that the mark names.
absl::StatusOr<CommitPoint> InspectHead(const std::string& path, Recovery recovery,
                                        const CommitPoint& acknowledged, rocksdb::Env* env);

}  // namespace diffmoe::storage
