// Calibrations that a sampler makes beside its requests: one at a time, in the order of arrival,
// each a small piece of work per Step so that requests go on in between.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/diffusion/calibration.h"
#include "worker/rank/model_cache.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

// One calibration under way.
class CalibrateTask {
 public:
  // Loads the checkpoint and reads the images; blocks for that long. The images are those of the
  // split that the job doesn't train on, or of its own data when there is no other split.
  // INVALID_ARGUMENT when the model has no capacity to calibrate; errors of data set and cache.
  static absl::StatusOr<std::unique_ptr<CalibrateTask>> Start(RankLink& link, ModelCache& cache,
                                                              const CalibrateWork& work);

  bool done() const { return calibration_->done(); }
  void Step() { calibration_->Step(); }
  CalibrationProgress progress() const { return {calibration_->progress(), calibration_->doing()}; }
  // When done.
  CalibrationFinished Finished() const;

 private:
  CalibrateTask() = default;

  std::shared_ptr<CheckpointModel> model_;
  const Denoiser* denoiser_ = nullptr;
  std::string data_;
  int images_ = 0;
  std::unique_ptr<Calibration> calibration_;
};

// Bound: 16 calibrations, beyond that RESOURCE_EXHAUSTED. One thread uses it.
class CalibrationQueue {
 public:
  // Both outlive the queue. `now`: empty for absl::Now.
  CalibrationQueue(RankLink& link, ModelCache& cache, std::function<absl::Time()> now = {});

  bool busy() const { return task_ != nullptr || !waiting_.empty(); }
  // Dropped when it is known already.
  void Add(CalibrateWork work);
  // Unknown ones are ignored.
  void Cancel(const std::string& request_id);
  void Forget();  // cancels all
  // One piece of work; progress is sent at most twice a second. A failure goes to the requester.
  void Step();
  void Stop(const absl::Status& status);

 private:
  absl::Status Advance();
  void Drop();

  RankLink& link_;
  ModelCache& cache_;
  const std::function<absl::Time()> now_;
  std::deque<CalibrateWork> waiting_;  // the first one is under way when task_ is set
  std::unique_ptr<CalibrateTask> task_;
  absl::Time last_progress_ = absl::InfinitePast();
};

}  // namespace diffmoe
