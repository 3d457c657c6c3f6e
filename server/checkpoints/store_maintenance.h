// Care for the whole store while the coordinator runs: backup and verification; and restoring while
// none runs.
//
// A backup is a data directory like the coordinator's own, with one more file, backup.json, that
// says what it holds. It is written to DIR.incomplete and gets its name when it is whole, so what
// has the name can be used.
//
// Thread safety: BackUp and Verify from any thread; one BackUp at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/storage/chunk_store.h"
#include "core/storage/record_store.h"
#include "server/checkpoints/checkpoint_store.h"

namespace diffmoe::server {

struct BackupSummary {
  int64_t commit = 0;  // newest in the copy
  int64_t jobs = 0;
  int64_t checkpoints = 0;
  int64_t bytes = 0;
};

// What a verification has seen so far.
struct VerifyProgress {
  int64_t bytes = 0;
  int64_t total_bytes = 0;
  std::string damage;  // empty: none since the call before
};

class StoreMaintenance {
 public:
  // Nothing is owned; all must outlive the object.
  StoreMaintenance(std::string data_dir, const RecordStore* records, const ChunkStore* chunks,
                   CheckpointStore* checkpoints)
      : data_dir_(std::move(data_dir)),
        records_(records),
        chunks_(chunks),
        checkpoints_(checkpoints) {}

  // Records as of one commit, and the bytes of every manifest among them: chunks are copied after
  // the records, and deletions wait for the end. Errors: INVALID_ARGUMENT for a path that isn't
  // absolute or lies in the data directory; ALREADY_EXISTS when the directory isn't empty;
  // RESOURCE_EXHAUSTED; ABORTED while another backup runs; DATA_LOSS when the copy can't be opened.
  // Nothing but DIR.incomplete may be left then, which the next backup to DIR removes.
  absl::StatusOr<BackupSummary> BackUp(const std::string& directory);

  // Reads every byte of records and checkpoints; damaged checkpoints are flagged. `on_progress`
  // returns false to end it (CANCELLED). Returns the number of damaged things.
  absl::StatusOr<int64_t> Verify(absl::FunctionRef<bool(const VerifyProgress&)> on_progress) const;

 private:
  absl::StatusOr<BackupSummary> WriteCopy(const std::string& directory);
  const std::string data_dir_;
  const RecordStore* records_;
  const ChunkStore* chunks_;
  CheckpointStore* checkpoints_;
  std::atomic<bool> backing_up_{false};
};

// Makes a data directory of a backup: copies it file by file to `data_dir`, which must be empty or
// not exist, and verifies every byte of the copy. Errors: NOT_FOUND when `backup` isn't a backup;
// FAILED_PRECONDITION for an incomplete one; ALREADY_EXISTS when the data directory isn't empty;
// DATA_LOSS naming what is damaged; RESOURCE_EXHAUSTED. Nothing but DATA_DIR.incomplete is left
// then.
absl::StatusOr<BackupSummary> RestoreBackup(const std::string& backup, const std::string& data_dir);

}  // namespace diffmoe::server
