#include "server/loop_host.h"

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "server/errors.h"
#include "server/state/records.h"

namespace diffmoe::server {

absl::Status LoopHost::CheckEpoch(const worker::v1::GroupId& group) {
  return groups_->Check(group.id(), group.epoch());
}

absl::Status LoopHost::CommitManifest(const worker::v1::Manifest& manifest) {
  absl::Notification answered;
  absl::Status result;
  const uint64_t call = calls_->NewNumber();
  calls_->Add(call, [&](const Reply& reply) {
    result = reply.status;
    answered.Notify();
  });
  if (absl::Status status = loop_->PostWhenRoom(server::CommitManifest{call, manifest});
      !status.ok()) {
    calls_->Answer(Reply{call, status, {}, false});
  }
  answered.WaitForNotification();
  return result;
}

absl::StatusOr<worker::v1::Manifest> LoopHost::GetManifest(const std::string& job_id,
                                                           int64_t step) {
  absl::StatusOr<std::string> bytes = records_->Get(ManifestKey(job_id, step));
  const std::string name = CheckpointName(job_id, step);
  if (absl::IsNotFound(bytes.status())) {
    return MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                     absl::StrCat(name, " doesn't exist"), name);
  }
  if (!bytes.ok()) return bytes.status();
  worker::v1::Manifest manifest;
  if (!manifest.ParseFromString(*bytes)) {
    return MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                     absl::StrCat("the manifest of ", name, " can't be read"), name);
  }
  return manifest;
}

void LoopHost::OnDamagedCheckpoint(const std::string& job_id, int64_t step,
                                   const std::string& reason) {
  const absl::Status status = loop_->Post(CheckpointDamaged{job_id, step, reason});
  if (!status.ok()) {
    LogError("checkpoints", "damage could not be recorded",
             {{"checkpoint", CheckpointName(job_id, step)}, {"error", status.ToString()}});
  }
}

}  // namespace diffmoe::server
