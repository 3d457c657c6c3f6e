// What can be saved of a ChunkStore whose database is damaged. Its tables hold everything, the
// database only lists them, so a damaged list costs no checkpoint.
//
// All functions work on the directory of a store that the caller has locked and whose database is
// closed. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rocksdb/options.h"

namespace diffmoe::storage {

// Tables that the database doesn't list are moved from DIR/db to DIR/unlisted, since opening would
// delete them: they may be what a deletion has left, or checkpoints that a damaged list has lost.
// Does nothing when the list can't be read.
absl::Status SetUnlistedAside(const std::string& directory, const rocksdb::Options& options);
bool HasUnlisted(const std::string& directory);
// For when every checkpoint is there.
absl::Status ForgetUnlisted(const std::string& directory);

// Whether a rebuild was interrupted.
bool IsHalfRebuilt(const std::string& directory);

struct RebuildResult {
  int64_t tables = 0;
  int64_t unreadable = 0;  // left in DIR/repair-failed
};

// Makes a new database of all tables in DIR/db and DIR/unlisted, as they are. May be interrupted
// and called again.
absl::StatusOr<RebuildResult> RebuildFromTables(const std::string& directory,
                                                const rocksdb::Options& options);

}  // namespace diffmoe::storage
