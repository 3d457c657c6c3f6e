#include "server/checkpoints/checkpoint_store.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "server/checkpoints/shard_rules.h"

namespace diffmoe::server {
namespace {

using worker::v1::Extent;
using worker::v1::Manifest;
using worker::v1::ReadExtentsRequest;
using worker::v1::ShardInfo;

absl::Status CheckPresent(const ChunkStore& chunks, const Manifest& manifest) {
  if (manifest.shards_size() != manifest.world_size()) {
    return absl::DataLossError(absl::StrCat("manifest of ", ToString(IdOf(manifest)), " lists ",
                                            manifest.shards_size(), " shards of ",
                                            manifest.world_size()));
  }
  for (const ShardInfo& shard : manifest.shards()) {
    ASSIGN_OR_RETURN(const ShardLayout layout, LayoutOf(manifest, shard.shard()));
    RETURN_IF_ERROR(chunks.CheckPresent(IdOf(manifest), layout));
  }
  return absl::OkStatus();
}

bool OutcomeUnknown(const absl::Status& status) {
  return absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsUnavailable(status) ||
         absl::IsCancelled(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace

absl::StatusOr<ReconcileResult> CheckpointStore::Reconcile(absl::Span<const Manifest> manifests) {
  ReconcileResult result;
  std::set<CheckpointId> wanted;
  for (const Manifest& manifest : manifests) {
    wanted.insert(IdOf(manifest));
    const absl::Status status = CheckPresent(*chunks_, manifest);
    if (status.ok()) continue;
    LogError("checkpoints", "damaged checkpoint", {{"reason", status.message()}});
    result.damaged.push_back({IdOf(manifest), std::string(status.message())});
  }
  for (const StoredCheckpoint& stored : chunks_->List()) {
    if (wanted.contains(stored.id)) continue;
    KillPoint("checkpoint.before_orphan_delete");
    RETURN_IF_ERROR(chunks_->Delete(stored.id));
    KillPoint("checkpoint.orphan_deleted");
    ++result.orphans_deleted;
    result.orphan_bytes += stored.bytes;
    LogInfo("checkpoints", "removed bytes without a manifest",
            {{"checkpoint", ToString(stored.id)}, {"bytes", stored.bytes}});
  }
  // Tables that nobody lists may be what a damaged checkpoint lacks.
  if (result.damaged.empty()) {
    RETURN_IF_ERROR(chunks_->ForgetUnlisted());
  } else {
    LogWarning("checkpoints", "tables of the missing chunks may have been set aside",
               {{"folder", "chunks/unlisted"}, {"repair", "start once with --accept-data-loss"}});
  }
  return result;
}

absl::StatusOr<std::unique_ptr<ShardWriter>> CheckpointStore::NewShard(const CheckpointId& id,
                                                                       int shard, int64_t bytes) {
  return chunks_->NewShard(id, shard, bytes);
}

absl::Status CheckpointStore::Commit(const Manifest& manifest,
                                     std::vector<std::unique_ptr<ShardWriter>> shards) {
  const CheckpointId id = IdOf(manifest);
  const absl::StatusOr<Manifest> before = host_->GetManifest(id.job_id, id.step);
  if (before.ok() && IdOf(*before) == id) return absl::OkStatus();
  RETURN_IF_ERROR(chunks_->Delete(id));  // of an earlier commit whose outcome was unknown
  RETURN_IF_ERROR(chunks_->Ingest(id, std::move(shards)));
  KillPoint("checkpoint.bytes_stored");
  const absl::Status committed = host_->CommitManifest(manifest);
  if (!committed.ok()) {
    // When the record store has failed, the manifest may be there after a restart: Reconcile
    // decides then.
    if (OutcomeUnknown(committed)) return committed;
    const absl::Status deleted = chunks_->Delete(id);
    if (!deleted.ok())
      LogWarning("checkpoints", "bytes are left over", {{"reason", deleted.message()}});
    return committed;
  }
  KillPoint("checkpoint.manifest_stored");
  const absl::Status replaced = DeleteReplaced(id);
  KillPoint("checkpoint.replaced_deleted");
  // The new checkpoint stands; what is left is an orphan for the next Reconcile.
  if (!replaced.ok())
    LogWarning("checkpoints", "a replaced checkpoint is left over",
               {{"reason", replaced.message()}});
  return absl::OkStatus();
}

absl::Status CheckpointStore::DeleteReplaced(const CheckpointId& kept) {
  for (const StoredCheckpoint& stored : chunks_->List()) {
    const bool older = stored.id.job_id == kept.job_id && stored.id.step == kept.step &&
                       stored.id.epoch < kept.epoch;
    if (older) RETURN_IF_ERROR(DeleteChunks(stored.id));
  }
  return absl::OkStatus();
}

absl::StatusOr<Manifest> CheckpointStore::GetManifest(const std::string& job_id, int64_t step) {
  return host_->GetManifest(job_id, step);
}

absl::Status CheckpointStore::ReadExtents(const ReadExtentsRequest& request,
                                          absl::FunctionRef<absl::Status(std::string_view)> sink) {
  ASSIGN_OR_RETURN(const Manifest manifest, host_->GetManifest(request.job_id(), request.step()));
  const CheckpointId id = IdOf(manifest);
  std::unique_ptr<ShardReader> reader;
  int reader_shard = -1;
  absl::Status status;
  for (const Extent& extent : request.extents()) {
    if (reader == nullptr || reader_shard != extent.shard()) {
      ASSIGN_OR_RETURN(ShardLayout layout, LayoutOf(manifest, extent.shard()));
      reader = chunks_->NewReader(id, std::move(layout));
      reader_shard = extent.shard();
    }
    status = reader->Read(extent.offset(), extent.bytes(), sink);
    if (!status.ok()) break;
  }
  if (!absl::IsDataLoss(status)) return status;
  const absl::StatusOr<Manifest> now = host_->GetManifest(request.job_id(), request.step());
  if (!now.ok()) return now.status();
  if (IdOf(*now) != id)
    return absl::NotFoundError(absl::StrCat(ToString(id), " was replaced while it was read"));
  host_->OnDamagedCheckpoint(id.job_id, id.step, std::string(status.message()));
  return status;
}

absl::Status CheckpointStore::Verify(const Manifest& manifest,
                                     absl::FunctionRef<void(int64_t bytes)> on_bytes) {
  const CheckpointId id = IdOf(manifest);
  absl::Status status;
  for (const ShardInfo& shard : manifest.shards()) {
    ASSIGN_OR_RETURN(const ShardLayout layout, LayoutOf(manifest, shard.shard()));
    status = chunks_->Verify(id, layout, on_bytes);
    if (!status.ok()) break;
  }
  if (!absl::IsDataLoss(status)) return status;
  const absl::StatusOr<Manifest> now = host_->GetManifest(id.job_id, id.step);
  if (absl::IsNotFound(now.status()) || (now.ok() && IdOf(*now) != id)) return absl::OkStatus();
  host_->OnDamagedCheckpoint(id.job_id, id.step, std::string(status.message()));
  return status;
}

absl::Status CheckpointStore::DeleteCheckpoint(const std::string& job_id, int64_t step,
                                               int64_t epoch) {
  return DeleteChunks({job_id, step, epoch});
}

absl::Status CheckpointStore::DeleteChunks(const CheckpointId& id) {
  {
    absl::MutexLock lock(&hold_mutex_);
    if (holds_ > 0) {
      held_.push_back(id);
      return absl::OkStatus();
    }
  }
  return chunks_->Delete(id);
}

CheckpointStore::DeletionHold::DeletionHold(CheckpointStore* store) : store_(store) {
  absl::MutexLock lock(&store_->hold_mutex_);
  ++store_->holds_;
}

CheckpointStore::DeletionHold::~DeletionHold() {
  std::vector<CheckpointId> held;
  {
    absl::MutexLock lock(&store_->hold_mutex_);
    if (--store_->holds_ == 0) held.swap(store_->held_);
  }
  for (const CheckpointId& id : held) {
    const absl::Status status = store_->chunks_->Delete(id);
    if (!status.ok())
      LogWarning("checkpoints", "bytes are left over", {{"reason", status.message()}});
  }
}

}  // namespace diffmoe::server
