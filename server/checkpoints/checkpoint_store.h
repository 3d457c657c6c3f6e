// Checkpoints as wholes: bytes in the ChunkStore, manifests in the host's record store. A
// checkpoint exists when its manifest does: chunks are ingested first, the manifest is committed
// second, and what a crash leaves between the two is removed by Reconcile.
//
// A step that is saved again under a new epoch (a resumed run passes the same steps) replaces the
// older checkpoint: the new chunks have keys of their own, the manifest is overwritten, then the
// old chunks go. At every moment one of the two is complete.
//
// Thread safety: every method may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "core/storage/chunk_store.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"
#include "server/checkpoints/coordinator_host.h"

namespace diffmoe::server {

struct DamagedCheckpoint {
  CheckpointId id;
  std::string reason;
};

struct ReconcileResult {
  int64_t orphans_deleted = 0;  // checkpoints with chunks and no manifest
  int64_t orphan_bytes = 0;
  std::vector<DamagedCheckpoint>
      damaged;  // manifests whose chunks are not all there: must not be listed or loaded
};

class CheckpointStore {
 public:
  // Neither is owned; both must outlive the object.
  CheckpointStore(ChunkStore* chunks, CoordinatorHost* host) : chunks_(chunks), host_(host) {}

  // Call once at start, with every manifest of the record store, before the bulk plane is served
  // and before the host answers (it isn't called). Reads no chunk.
  absl::StatusOr<ReconcileResult> Reconcile(absl::Span<const worker::v1::Manifest> manifests);

  absl::StatusOr<std::unique_ptr<ShardWriter>> NewShard(const CheckpointId& id, int shard,
                                                        int64_t bytes);

  // Ingests the sealed shards and commits the manifest; returns when both are durable. OK, without
  // effect, when this very checkpoint is committed already. On an error nothing is left, but for
  // one of the record store itself (INTERNAL, UNAVAILABLE): then the chunks stay until the next
  // Commit of the same checkpoint or the next Reconcile, since the manifest may turn out to be
  // there.
  absl::Status Commit(const worker::v1::Manifest& manifest,
                      std::vector<std::unique_ptr<ShardWriter>> shards);

  // The manifest of a committed checkpoint. NOT_FOUND.
  absl::StatusOr<worker::v1::Manifest> GetManifest(const std::string& job_id, int64_t step);

  // Hands the extents to `sink`, in order, in pieces of at most kChunkBytes that never span two
  // extents. Errors: NOT_FOUND (also when the checkpoint is deleted meanwhile); OUT_OF_RANGE;
  // DATA_LOSS naming the shard, after which the host has been told.
  absl::Status ReadExtents(const worker::v1::ReadExtentsRequest& request,
                           absl::FunctionRef<absl::Status(std::string_view)> sink);

  // Reads every byte of the checkpoint's files anew and verifies it; calls `on_bytes` for each
  // piece. DATA_LOSS names the first damaged file or chunk, after which the host has been told. OK
  // when the checkpoint is deleted or replaced meanwhile.
  absl::Status Verify(const worker::v1::Manifest& manifest,
                      absl::FunctionRef<void(int64_t bytes)> on_bytes);
  absl::Status Verify(const worker::v1::Manifest& manifest) {
    return Verify(manifest, [](int64_t) {});
  }

  // While one lives, the chunks of deleted and replaced checkpoints stay; its end removes them. A
  // crash in between leaves orphans for Reconcile.
  class DeletionHold {
   public:
    explicit DeletionHold(CheckpointStore* store);
    ~DeletionHold();
    DeletionHold(const DeletionHold&) = delete;
    DeletionHold& operator=(const DeletionHold&) = delete;

   private:
    CheckpointStore* const store_;
  };

  // For retention: removes the chunks. Delete the manifest first (durably); a crash between leaves
  // an orphan for Reconcile.
  absl::Status DeleteCheckpoint(const std::string& job_id, int64_t step, int64_t epoch);

 private:
  absl::Status DeleteReplaced(const CheckpointId& kept);
  // Deletes the chunks of a checkpoint that has no manifest any more, later when deletions are
  // held.
  absl::Status DeleteChunks(const CheckpointId& id);
  ChunkStore* chunks_;
  CoordinatorHost* host_;
  absl::Mutex hold_mutex_;
  int holds_ ABSL_GUARDED_BY(hold_mutex_) = 0;
  std::vector<CheckpointId> held_ ABSL_GUARDED_BY(hold_mutex_);
};

}  // namespace diffmoe::server
