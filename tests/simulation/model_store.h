// Models of the two stores. Not thread-safe.
//
// Records: what is written is lost in a crash unless it was synced; the mark remembers how far the
// store has promised to be, as core/storage/record_store does. Chunks: a checkpoint's bytes are
// there as a whole or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/storage/record_store.h"
#include "tests/simulation/world.h"

namespace diffmoe::simulation {

// Where in a commit the process dies.
enum class CommitCrash {
  kNone,
  kBeforeSync,  // written, perhaps on the disk
  kBeforeMark,  // synced, the mark is the old one
  kAfterMark,   // all done, nothing acted upon yet
};

class ModelStore {
 public:
  using Records = std::map<std::string, std::string>;
  // `on_durable` sees every batch that a restart will find, once, in order.
  ModelStore(World* world, std::function<void(const std::vector<RecordWrite>&)> on_durable)
      : world_(world), on_durable_(std::move(on_durable)) {}

  // As RecordStore::Commit. When the process dies in it, `on_crash` is called on the way; what the
  // commit returns then is seen by nobody.
  absl::Status Commit(const std::vector<RecordWrite>& writes);
  // The process is gone, and with it what was not synced.
  void Crash();
  // DATA_LOSS when less is there than was promised.
  absl::Status Open() const;
  // What a reader of the running process sees.
  const Records& records() const { return written_; }

  void SetFull(bool full) { full_ = full; }
  bool full() const { return full_; }
  // The next commit kills the process.
  void CrashInNextCommit(CommitCrash where, std::function<void()> on_crash) {
    crash_ = where;
    on_crash_ = std::move(on_crash);
  }

 private:
  void Sync();
  bool CrashHere(CommitCrash where);

  World* world_;
  const std::function<void(const std::vector<RecordWrite>&)> on_durable_;
  Records written_;
  Records synced_;
  std::vector<std::vector<RecordWrite>> unsynced_;
  int64_t written_sequence_ = 0;
  int64_t synced_sequence_ = 0;
  int64_t mark_ = 0;
  bool full_ = false;
  CommitCrash crash_ = CommitCrash::kNone;
  std::function<void()> on_crash_;
};

struct CheckpointKey {
  std::string job_id;
  int64_t step = 0;
  int64_t epoch = 0;
  auto operator<=>(const CheckpointKey&) const = default;
};

class ModelChunks {
 public:
  // `on_deleted` sees every checkpoint whose bytes go.
  explicit ModelChunks(std::function<void(const CheckpointKey&)> on_deleted)
      : on_deleted_(std::move(on_deleted)) {}

  // RESOURCE_EXHAUSTED when the disk is full.
  absl::Status Ingest(const CheckpointKey& key);
  void Delete(const CheckpointKey& key);
  bool Has(const CheckpointKey& key) const { return stored_.contains(key); }
  // Bit rot. Reads of it fail with DATA_LOSS.
  void Damage(const CheckpointKey& key) { damaged_.insert(key); }
  bool IsDamaged(const CheckpointKey& key) const { return damaged_.contains(key); }
  std::vector<CheckpointKey> List() const { return {stored_.begin(), stored_.end()}; }
  void SetFull(bool full) { full_ = full; }

 private:
  const std::function<void(const CheckpointKey&)> on_deleted_;
  std::set<CheckpointKey> stored_;
  std::set<CheckpointKey> damaged_;
  bool full_ = false;
};

}  // namespace diffmoe::simulation
