#include "tests/simulation/model_store.h"

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"

namespace diffmoe::simulation {
namespace {

void Apply(const std::vector<RecordWrite>& writes, ModelStore::Records* records) {
  for (const RecordWrite& write : writes) {
    if (write.value) {
      (*records)[write.key] = *write.value;
    } else {
      records->erase(write.key);
    }
  }
}

}  // namespace

void ModelStore::Sync() {
  for (const std::vector<RecordWrite>& batch : unsynced_) {
    Apply(batch, &synced_);
    on_durable_(batch);
  }
  unsynced_.clear();
  synced_sequence_ = written_sequence_;
}

bool ModelStore::CrashHere(CommitCrash where) {
  if (crash_ != where) return false;
  crash_ = CommitCrash::kNone;
  on_crash_();
  return true;
}

absl::Status ModelStore::Commit(const std::vector<RecordWrite>& writes) {
  if (full_) return absl::ResourceExhaustedError("no space left on device");
  Apply(writes, &written_);
  unsynced_.push_back(writes);
  ++written_sequence_;
  if (CrashHere(CommitCrash::kBeforeSync)) {
    // The operating system may have written it in time.
    if (world_->random.Chance(0.5)) Sync();
    return absl::OkStatus();
  }
  if (Planted(Fault::kSyncDropped)) {
    on_durable_(writes);
    return absl::OkStatus();
  }
  Sync();
  if (CrashHere(CommitCrash::kBeforeMark)) return absl::OkStatus();
  mark_ = synced_sequence_;
  CrashHere(CommitCrash::kAfterMark);
  return absl::OkStatus();
}

void ModelStore::Crash() {
  unsynced_.clear();
  written_ = synced_;
  written_sequence_ = synced_sequence_;
  crash_ = CommitCrash::kNone;
}

absl::Status ModelStore::Open() const {
  if (synced_sequence_ >= mark_) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("commits ", synced_sequence_ + 1, " to ", mark_, " are missing"));
}

absl::Status ModelChunks::Ingest(const CheckpointKey& key) {
  if (full_) return absl::ResourceExhaustedError("no space left on device");
  stored_.insert(key);
  return absl::OkStatus();
}

void ModelChunks::Delete(const CheckpointKey& key) {
  if (stored_.erase(key) > 0) on_deleted_(key);
  damaged_.erase(key);
}

}  // namespace diffmoe::simulation
