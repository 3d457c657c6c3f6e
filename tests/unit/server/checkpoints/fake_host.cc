#include "tests/unit/server/checkpoints/fake_host.h"

#include "absl/strings/str_cat.h"
#include "diffmoe/v1/error.pb.h"
#include "server/errors.h"

namespace diffmoe::server {

absl::Status FakeHost::CheckEpoch(const worker::v1::GroupId& group) {
  absl::MutexLock lock(&mutex_);
  const int64_t current = epochs_.try_emplace(group.id(), 1).first->second;
  if (group.epoch() == current) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kAborted, v1::STALE_EPOCH,
      absl::StrCat("epoch ", group.epoch(), " of ", group.id(), " is over, current is ", current));
}

absl::Status FakeHost::CommitManifest(const worker::v1::Manifest& manifest) {
  absl::MutexLock lock(&mutex_);
  if (commit_result_.ok()) manifests_[{manifest.job_id(), manifest.step()}] = manifest;
  return commit_result_;
}

absl::StatusOr<worker::v1::Manifest> FakeHost::GetManifest(const std::string& job_id,
                                                           int64_t step) {
  absl::MutexLock lock(&mutex_);
  const auto found = manifests_.find({job_id, step});
  if (found != manifests_.end()) return found->second;
  return MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                   absl::StrCat("job ", job_id, " has no checkpoint of step ", step));
}

void FakeHost::OnDamagedCheckpoint(const std::string& job_id, int64_t step,
                                   const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  damaged_.push_back(absl::StrCat(job_id, "@", step, ": ", reason));
}

void FakeHost::SetEpoch(const std::string& id, int64_t epoch) {
  absl::MutexLock lock(&mutex_);
  epochs_[id] = epoch;
}
void FakeHost::SetCommitResult(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  commit_result_ = status;
}
void FakeHost::ForgetManifest(const std::string& job_id, int64_t step) {
  absl::MutexLock lock(&mutex_);
  manifests_.erase({job_id, step});
}
std::vector<worker::v1::Manifest> FakeHost::Manifests() {
  absl::MutexLock lock(&mutex_);
  std::vector<worker::v1::Manifest> manifests;
  for (const auto& [key, manifest] : manifests_) manifests.push_back(manifest);
  return manifests;
}
std::vector<std::string> FakeHost::Damaged() {
  absl::MutexLock lock(&mutex_);
  return damaged_;
}

}  // namespace diffmoe::server
