#include "core/storage/database_copy.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/storage/rocksdb_support.h"
#include "rocksdb/utilities/checkpoint.h"

namespace diffmoe::storage {

absl::Status CopyDatabase(rocksdb::DB& db, const std::string& directory) {
  const std::string action = absl::StrCat("copy ", db.GetName(), " to ", directory);
  rocksdb::Checkpoint* created = nullptr;
  RETURN_IF_ERROR(FromRocksDb(rocksdb::Checkpoint::Create(&db, &created), action));
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(created);
  // 0: whatever the size of the log, its contents are flushed into a table first.
  return FromRocksDb(checkpoint->CreateCheckpoint(directory, /*log_size_for_flush=*/0), action);
}

}  // namespace diffmoe::storage
