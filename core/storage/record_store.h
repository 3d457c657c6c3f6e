// Small records, each commit durable and all-or-nothing. A RocksDB in DIR/db, a lock in DIR/lock,
// and the high-water mark in DIR/mark.
//
// Every commit carries the next sequence number and a hash over everything before it. The mark
// holds the last sequence that was acknowledged, in a file that RocksDB knows nothing of, synced
// before Commit returns. So a store that comes back with less than it acknowledged (a WAL deleted,
// cut or replaced, an older copy put back, writes that a disk lied about) is refused, while a torn
// tail of a commit that nobody was told of opens.
//
// Thread safety: every method may be called from any thread; commits are serialised. Pass many
// writes in one commit rather than many commits: each one costs two fdatasync.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace rocksdb {
class Env;
}

namespace diffmoe {

struct RecordWrite {
  std::string key;                   // not empty, first byte not 0 (those keys are the store's own)
  std::optional<std::string> value;  // nothing: the key is deleted
};

struct RecordStoreOptions {
  // Open a store that has lost acknowledged commits or has a damaged log: everything before the
  // damage is kept, the mark is set back. For an operator's explicit repair (coordinator flag
  // --accept-data-loss); never on by itself.
  bool accept_loss = false;
  // For tests that make the disk fail. Default: rocksdb::Env::Default().
  rocksdb::Env* env = nullptr;
};

class RecordStore final {
 public:
  // Opens or creates the store. Errors:
  //   FAILED_PRECONDITION  another opener holds it ("held by pid N"); or a newer format, named
  //   PERMISSION_DENIED    the path can't be created or written, or isn't a directory
  //   DATA_LOSS            damaged, or acknowledged commits are missing; names the range that would
  //   be lost and the
  //                        repair. Nothing on disk is changed.
  //   RESOURCE_EXHAUSTED   disk full
  static absl::StatusOr<std::unique_ptr<RecordStore>> Open(const std::string& directory,
                                                           const RecordStoreOptions& options = {});
  ~RecordStore();

  // Makes all writes durable, or none; a later write of the same key wins. An empty span is a
  // no-op. Errors:
  //   INVALID_ARGUMENT    a forbidden key
  //   RESOURCE_EXHAUSTED  disk full: nothing is written, reads go on, and a later Commit works once
  //   there is space INTERNAL            any other I/O error: the store accepts no more commits in
  //   this process (stop, start again:
  //                       Open verifies). Whether this last commit took effect shows only then.
  absl::Status Commit(absl::Span<const RecordWrite> writes);

  // NOT_FOUND when the key isn't there; DATA_LOSS when its bytes are damaged.
  absl::StatusOr<std::string> Get(std::string_view key) const;

  // Calls `visit` for every key that starts with `prefix`, ascending, until it returns false. Sees
  // one consistent state. `visit` must not call Commit.
  absl::Status Scan(
      std::string_view prefix,
      const std::function<bool(std::string_view key, std::string_view value)>& visit) const;

  // Reads and verifies every byte on disk: tables by RocksDB's block checksums, then, while commits
  // wait, the log, the chain of commits and the mark, as a restart would read them. DATA_LOSS names
  // the damaged file.
  absl::Status Verify() const;

  // Writes a copy of the store to `directory`, which must not exist; returns the newest commit in
  // it. Commits wait meanwhile: for a flush and links on one file system, for a copy of all tables
  // on another. The copy is a store like this one. Errors: RESOURCE_EXHAUSTED, also when the
  // store's own disk is full; INTERNAL when the store has stopped, or for an I/O error.
  absl::StatusOr<int64_t> BackUp(const std::string& directory) const;

  // Sequence number of the last acknowledged commit; 0: none.
  int64_t sequence() const;
  // Bytes on disk of tables and log.
  int64_t size_bytes() const;

 private:
  class Impl;
  explicit RecordStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffmoe
