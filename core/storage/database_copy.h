// A copy of an open RocksDB.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "rocksdb/db.h"

namespace diffmoe::storage {

// Writes the database as it is now to `directory`, which must not exist, and syncs it. Table files
// are linked where both are on one file system (they never change), copied otherwise. The
// database's writers wait for the flush of its memtable only. Errors as FromRocksDb; nothing is
// left then.
absl::Status CopyDatabase(rocksdb::DB& db, const std::string& directory);

}  // namespace diffmoe::storage
