// Brings the shard streams of one checkpoint together. A checkpoint is pending from the first
// header until all world_size shards are sealed; the thread that seals the last one commits it, and
// all are told the result. When a shard fails (stream broken, bad checksum, disk full) the whole
// pending checkpoint is discarded and the other ranks are told which rank it was.
//
// Saving a step again: under the same epoch, a rank's stream is checked, dropped and acknowledged
// as committed (its first answer may have been lost); under a newer epoch it becomes a new
// checkpoint that replaces the older one. A rank that opens a second stream for a checkpoint that
// is pending discards the pending one and begins a new one.
//
// Thread safety: CheckpointAssembler from any thread; a ShardSession from one. Sessions must be
// gone before it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/base/clock.h"
#include "core/metrics/metrics.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"
#include "server/checkpoints/checkpoint_store.h"

namespace diffmoe::server {

struct AssemblerOptions {
  int max_pending = 64;  // checkpoints being received at once; beyond: RESOURCE_EXHAUSTED
  int max_world_size = 4096;
  // A pending checkpoint that no rank has moved for this long is discarded; the message names the
  // missing ranks.
  int64_t stall_timeout_ms = 120'000;
};

class ShardSession;

class CheckpointAssembler {
 public:
  // Nothing is owned; all must outlive the object.
  CheckpointAssembler(CheckpointStore* store, CoordinatorHost* host,
                      metrics::CheckpointMetrics* metrics, const Clock* clock,
                      const AssemblerOptions& options = {});
  ~CheckpointAssembler();

  // Errors: INVALID_ARGUMENT for a header that breaks a rule of shard_rules.h or disagrees with
  // another rank's; ABORTED for a stale epoch; RESOURCE_EXHAUSTED.
  absl::StatusOr<std::unique_ptr<ShardSession>> Begin(const worker::v1::ShardHeader& header);

  // Discards what is pending of the group up to and including this epoch; its ranks get ABORTED.
  void EndGroup(const worker::v1::GroupId& group);
  // Discards everything that is pending and refuses what comes; UNAVAILABLE.
  void Shutdown();

 private:
  friend class ShardSession;
  struct Pending;
  using Key = std::tuple<std::string, int64_t, int64_t>;  // job, step, epoch
  // Ends the pending checkpoint: `rank` gets `status` itself, the others are told that it was this
  // rank (-1: all get `status`). Without effect when it is being committed or has ended.
  void Fail(Pending& pending, int rank, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::StatusOr<std::shared_ptr<Pending>> Join(const worker::v1::ShardHeader& header);
  // OK while the pending checkpoint lives, else what this rank is told.
  absl::Status StateFor(const Pending& pending, int rank);
  absl::Status SealAndCommit(Pending& pending, int rank, std::unique_ptr<ShardWriter> writer,
                             absl::FunctionRef<bool()> cancelled);
  absl::Status WaitForOthers(Pending& pending, int rank, absl::FunctionRef<bool()> cancelled);
  absl::Status Commit(Pending& pending);
  void FailMatching(absl::FunctionRef<bool(const Key&)> matches, const absl::Status& status);

  CheckpointStore* store_;
  CoordinatorHost* host_;
  metrics::CheckpointMetrics* metrics_;
  const Clock* clock_;
  const AssemblerOptions options_;
  absl::Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<Key, std::shared_ptr<Pending>> pending_ ABSL_GUARDED_BY(mutex_);
};

// One rank's stream. Destroying it before Finish returned discards the pending checkpoint.
class ShardSession {
 public:
  ~ShardSession();
  // Returns the running byte count. Errors: DATA_LOSS for a wrong checksum; INVALID_ARGUMENT for
  // too many bytes; what another rank's failure was (UNAVAILABLE naming it).
  absl::StatusOr<int64_t> Append(const worker::v1::ShardData& data);
  // Waits until the whole checkpoint is durable or failed. `cancelled`: whether the rank has gone.
  absl::Status Finish(absl::FunctionRef<bool()> cancelled);
  // The stream ended early; the other ranks are told.
  void Abandon();

 private:
  friend class CheckpointAssembler;
  ShardSession(CheckpointAssembler* assembler, const worker::v1::ShardHeader& header);
  absl::Status Fail(const absl::Status& status);
  std::string Describe() const;
  CheckpointAssembler* assembler_;
  std::string checkpoint_;  // for messages
  std::shared_ptr<CheckpointAssembler::Pending>
      pending_;  // nothing: already committed, checked and dropped
  std::unique_ptr<ShardWriter> writer_;
  int rank_;
  int64_t announced_bytes_;
  int64_t received_bytes_ = 0;
  bool finished_ = false;
};

}  // namespace diffmoe::server
