// Metric series of the jobs whose rank 0 runs here. They stay for some minutes after the group has
// ended, so that a last scrape sees the final values, and go away then. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/metrics/metrics.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"

namespace diffmoe {

class JobSeries {
 public:
  // The pointers outlive the object.
  JobSeries(metrics::TrainMetrics* metrics, const Clock* clock, absl::Duration keep)
      : metrics_(metrics), clock_(clock), keep_ms_(absl::ToInt64Milliseconds(keep)) {}

  void Update(const std::string& job_id, const v1::Progress& progress,
              const v1::TrainingSpec& spec) {
    absl::MutexLock lock(&mutex_);
    remove_at_ms_.erase(job_id);
    metrics_->Update(job_id, progress, spec);
  }

  // One of the job's ranks has ended because the loss is not a finite number. Until the group has
  // ended or reports again.
  void LossNotFinite(const std::string& job_id) {
    absl::MutexLock lock(&mutex_);
    metrics_->LossNotFinite(job_id);
  }

  void GroupEnded(const std::string& job_id) {
    absl::MutexLock lock(&mutex_);
    remove_at_ms_[job_id] = clock_->MonotonicMs() + keep_ms_;
  }

  // Removes what is due. Call at least once a minute.
  void RemoveDue() {
    absl::MutexLock lock(&mutex_);
    const int64_t now = clock_->MonotonicMs();
    for (auto entry = remove_at_ms_.begin(); entry != remove_at_ms_.end();) {
      if (entry->second > now) {
        ++entry;
        continue;
      }
      metrics_->Remove(entry->first);
      entry = remove_at_ms_.erase(entry);
    }
  }

 private:
  metrics::TrainMetrics* const metrics_;
  const Clock* const clock_;
  const int64_t keep_ms_;
  absl::Mutex mutex_;
  std::map<std::string, int64_t> remove_at_ms_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe
