#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/errors.h"
#include "server/sampling/capacity.h"
#include "server/state/records.h"
#include "server/state/transition.h"

namespace diffmoe::server {

absl::Status NoCalibration(const JobEntry& job, int64_t step, bool newest) {
  const std::string name = CheckpointName(job.job().id(), step);
  std::string message = absl::StrCat(name, " has no calibration; make one with: diffmoe calibrate ",
                                     newest ? JobName(job.job().id()) : name);
  if (newest) {
    for (auto it = job.calibrations.rbegin(); it != job.calibrations.rend(); ++it) {
      if (IsDamaged(job, it->first)) continue;
      absl::StrAppend(&message, "; the newest that has one is ",
                      CheckpointName(job.job().id(), it->first));
      break;
    }
  }
  return MakeError(absl::StatusCode::kFailedPrecondition, v1::NO_CALIBRATION, message, name);
}

absl::StatusOr<std::vector<v1::CalibratedLayer>> ThresholdsFor(const JobEntry& job, int64_t step,
                                                               bool newest,
                                                               const v1::SampleRequest& request) {
  if (!request.has_capacity()) return std::vector<v1::CalibratedLayer>();
  const auto calibration = job.calibrations.find(step);
  if (calibration == job.calibrations.end()) return NoCalibration(job, step, newest);
  return ResolveThresholds(*calibration->second, request.threshold_rule(), request.capacity());
}

void FinishCalibration(Transition& t, uint64_t call, v1::Calibration calibration) {
  const SampleEntry& sample = t.state.samples.at(call);
  JobEntry* job = FindJob(t, sample.job_id);
  const std::string name = CheckpointName(sample.job_id, sample.step);
  const auto checkpoint = job->checkpoints.find(sample.step);
  if (checkpoint == job->checkpoints.end() || checkpoint->second != sample.epoch) {
    EndSample(t, call,
              MakeRetryableError(absl::StatusCode::kUnavailable, v1::SAMPLER_LOST,
                                 absl::StrCat(name, " was replaced while it was calibrated"), 1000),
              SampleOutcome::kFailed);
    return;
  }
  calibration.set_checkpoint(name);
  t.Emit(WriteRecord{CalibrationKey(sample.job_id, sample.step), calibration.SerializeAsString()});
  job->calibrations[sample.step] = std::make_shared<const v1::Calibration>(calibration);
  AddJobEvent(t, *job, absl::StrCat("checkpoint of step ", sample.step, " calibrated"));
  v1::CalibrateCheckpointResponse response;
  *response.mutable_finished() = std::move(calibration);
  t.Emit(CalibrationEvent{call, std::move(response)});
  EndSample(t, call, absl::OkStatus(), SampleOutcome::kOk);
}

void DropCalibration(Transition& t, JobEntry& job, int64_t step) {
  if (job.calibrations.erase(step) == 0 || Planted(Fault::kCalibrationKept)) return;
  t.Emit(DeleteRecord{CalibrationKey(job.job().id(), step)});
}

}  // namespace diffmoe::server
