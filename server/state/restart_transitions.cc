// Restore rules, one for each state that a job can be found in:
//   QUEUED                  waits again; what is left of its backoff is kept
//   PAUSED                  stays
//   STARTING, RUNNING       its ranks are expected for adoption_grace_ms; those that come are
//                           adopted, else a new attempt starts
//   PAUSING                 as RUNNING, but ranks that come are told again to save and end
//   CANCELLING              ranks that are announced are stopped; CANCELLED when none is left, at
//                           the latest after the grace
//   SUCCEEDED, FAILED, CANCELLED  stay
// Samplers and sample requests are soft: announced samplers are stopped, clients ask again.
#include <algorithm>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/planted_faults.h"
#include "server/state/records.h"
#include "server/state/step.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

void ExpectRanks(Transition& t, JobEntry& job) {
  const v1::Job& shown = job.job();
  job.attempt = {};
  if (shown.attempts_size() > 0) {
    for (const v1::Placement& placement : shown.attempts(shown.attempts_size() - 1).placements()) {
      RankEntry& rank = job.attempt.ranks.emplace_back();
      rank.worker_id = placement.worker_id();
      rank.slot = placement.slot();
    }
  }
  job.attempt.adopt_until_ms = t.now.monotonic_ms + t.options().adoption_grace_ms;
  if (Planted(Fault::kAdoptionGraceIgnored)) job.attempt.adopt_until_ms = t.now.monotonic_ms;
  const bool stopping = shown.state() == v1::CANCELLING || shown.state() == v1::PAUSING;
  if (stopping && !Planted(Fault::kCancelForgotten)) {
    const bool cancel = shown.state() == v1::CANCELLING;
    job.attempt.stop = cancel ? StopKind::kCancel : StopKind::kPause;
    job.attempt.stop_reason = cancel ? "the job was cancelled" : "the job is paused";
    job.attempt.stop_since_ms = t.now.monotonic_ms;
    job.attempt.stop_sent_ms = t.now.monotonic_ms;
  }
  t.Emit(GroupStarted{shown.id(), shown.epoch()});
}

absl::Status Unreadable(const std::string& key) {
  return absl::DataLossError(absl::StrCat("record \"", key, "\" can't be read"));
}

absl::Status LoadJob(State& state, const std::string& key, const std::string& value) {
  internal::v1::JobRecord record;
  if (!record.ParseFromString(value)) return Unreadable(key);
  const std::string id = record.job().id();
  if (key != JobKey(id)) {
    return absl::DataLossError(absl::StrCat("record \"", key, "\" holds job \"", id, "\""));
  }
  if (Planted(Fault::kEventSequenceLost)) record.set_next_event_sequence(1);
  JobEntry& entry = state.jobs[id];
  entry.record = std::move(record);
  state.jobs_by_number[entry.record.sequence_number()] = id;
  if (!entry.record.request_id().empty() && !Planted(Fault::kRequestIdForgotten)) {
    state.jobs_by_request_id[entry.record.request_id()] = id;
  }
  SetJobState(state, entry, entry.job().state());
  return absl::OkStatus();
}

absl::Status LoadManifest(State& state, const std::string& key, const std::string& value) {
  worker::v1::Manifest manifest;
  if (!manifest.ParseFromString(value)) return Unreadable(key);
  const auto job = state.jobs.find(manifest.job_id());
  if (job == state.jobs.end()) {
    return absl::DataLossError(
        absl::StrCat("record \"", key, "\" belongs to a job that isn't there"));
  }
  job->second.checkpoints[manifest.step()] = manifest.epoch();
  return absl::OkStatus();
}

absl::Status LoadCalibration(State& state, const std::string& key, const std::string& value) {
  const std::vector<std::string> parts = absl::StrSplit(key, '/');
  int64_t step = 0;
  auto calibration = std::make_shared<v1::Calibration>();
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[2], &step) ||
      !calibration->ParseFromString(value)) {
    return Unreadable(key);
  }
  const auto job = state.jobs.find(parts[1]);
  if (job == state.jobs.end() || !job->second.checkpoints.contains(step)) {
    return absl::DataLossError(
        absl::StrCat("record \"", key, "\" belongs to a checkpoint that isn't there"));
  }
  job->second.calibrations[step] = std::move(calibration);
  return absl::OkStatus();
}

absl::Status LoadHeader(State& state, const std::string& value) {
  if (!state.header.ParseFromString(value)) return Unreadable(kHeaderKey);
  if (state.header.schema_version() > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the data directory was written by a newer version: schema ",
                     state.header.schema_version(), ", this program knows ", kSchemaVersion));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<State> LoadState(const std::vector<std::pair<std::string, std::string>>& records,
                                const StateOptions& options) {
  State state;
  state.options = options;
  for (const auto& [key, value] : records) {
    absl::Status status;
    if (key == kHeaderKey) status = LoadHeader(state, value);
    if (key.starts_with(kJobsPrefix)) status = LoadJob(state, key, value);
    if (!status.ok()) return status;
  }
  for (const auto& [key, value] : records) {
    if (!key.starts_with(kManifestsPrefix)) continue;
    if (absl::Status status = LoadManifest(state, key, value); !status.ok()) return status;
  }
  for (const auto& [key, value] : records) {
    if (!key.starts_with(kCalibrationsPrefix)) continue;
    if (absl::Status status = LoadCalibration(state, key, value); !status.ok()) return status;
  }
  for (auto& [id, job] : state.jobs) UpdateForkUse(state, job);
  state.header.set_schema_version(kSchemaVersion);
  return state;
}

void OnRestarted(Transition& t) {
  for (const std::string& id : t.state.active) {
    JobEntry& job = t.state.jobs.at(id);
    if (IsPlaced(job.job().state())) ExpectRanks(t, job);
    // The wall clock may have jumped: never longer than the longest backoff.
    const int64_t left_ms = job.record.not_before_ms() - t.now.unix_ms;
    if (job.job().state() == v1::QUEUED && left_ms > 0) {
      BackOff(t.state, job, t.now.monotonic_ms + std::min(left_ms, t.options().max_backoff_ms));
    }
  }
  t.Emit(WriteRecord{kHeaderKey, t.state.header.SerializeAsString()});
  t.state.schedule_due = true;
}

}  // namespace diffmoe::server
