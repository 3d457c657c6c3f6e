// The rest of the coordinator, in memory.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/checkpoints/coordinator_host.h"

namespace diffmoe::server {

// Thread-safe.
class FakeHost final : public CoordinatorHost {
 public:
  absl::Status CheckEpoch(const worker::v1::GroupId& group) override;
  absl::Status CommitManifest(const worker::v1::Manifest& manifest) override;
  absl::StatusOr<worker::v1::Manifest> GetManifest(const std::string& job_id,
                                                   int64_t step) override;
  void OnDamagedCheckpoint(const std::string& job_id, int64_t step,
                           const std::string& reason) override;

  // Epochs other than this are stale; default 1 for every group.
  void SetEpoch(const std::string& id, int64_t epoch);
  // What CommitManifest answers from now on.
  void SetCommitResult(const absl::Status& status);
  void ForgetManifest(const std::string& job_id, int64_t step);
  std::vector<worker::v1::Manifest> Manifests();
  std::vector<std::string> Damaged();

 private:
  absl::Mutex mutex_;
  std::map<std::string, int64_t> epochs_ ABSL_GUARDED_BY(mutex_);
  absl::Status commit_result_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string, int64_t>, worker::v1::Manifest> manifests_
      ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> damaged_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
