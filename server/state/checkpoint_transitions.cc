#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/planted_faults.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "server/errors.h"
#include "server/state/records.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

void RecordManifestThresholds(Transition& t, const worker::v1::Manifest& manifest) {
  if (Planted(Fault::kThresholdsNotRecorded)) return;
  const worker::v1::CheckpointSummary& summary = manifest.summary();
  const int experts = summary.experts();
  if (experts <= 0 || summary.thresholds_size() != summary.blocks_size() * experts) return;
  if (summary.blocks().empty()) return;
  v1::ThresholdPoint point;
  point.set_step(manifest.step());
  for (int layer = 0; layer < summary.blocks_size(); ++layer) {
    v1::LayerThresholds* thresholds = point.add_layers();
    thresholds->set_block(summary.blocks(layer));
    for (int e = 0; e < experts; ++e) {
      thresholds->add_thresholds(summary.thresholds(layer * experts + e));
    }
  }
  t.Emit(WriteRecord{ThresholdsKey(manifest.job_id(), manifest.step()), point.SerializeAsString()});
}

// Steps that something reads right now.
std::set<int64_t> UsedSteps(const State& state, const JobEntry& job) {
  std::set<int64_t> used;
  if (Planted(Fault::kRetentionIgnoresUse)) return used;
  const v1::Job& shown = job.job();
  if (!job.attempt.ranks.empty() && shown.attempts_size() > 0) {
    used.insert(shown.attempts(shown.attempts_size() - 1).restored_step());
  }
  for (const auto& [call, sample] : state.samples) {
    if (sample.job_id == shown.id()) used.insert(sample.step);
  }
  for (const auto& [step, forks] : job.forks) used.insert(step);
  return used;
}

void DropCheckpoint(Transition& t, JobEntry& job, int64_t step) {
  t.Emit(DeleteRecord{ManifestKey(job.job().id(), step)});
  DropCalibration(t, job, step);
  t.Emit(DeleteCheckpoint{job.job().id(), step, job.checkpoints.at(step)});
  job.checkpoints.erase(step);
  auto* pinned = job.record.mutable_pinned_steps();
  pinned->erase(std::remove(pinned->begin(), pinned->end(), step), pinned->end());
}

// The job's checkpoint, or null after an answer that it doesn't exist.
JobEntry* FindCheckpointOrReply(Transition& t, uint64_t call, const std::string& job_id,
                                int64_t step) {
  JobEntry* job = FindJobOrReply(t, call, job_id);
  if (job == nullptr || job->checkpoints.contains(step)) return job;
  const std::string name = CheckpointName(job_id, step);
  t.ReplyError(call, MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                               absl::StrCat(name, " doesn't exist"), name));
  return nullptr;
}

}  // namespace

bool IsPinned(const JobEntry& job, int64_t step) {
  const auto& pinned = job.record.pinned_steps();
  return std::find(pinned.begin(), pinned.end(), step) != pinned.end();
}

std::vector<std::string> UsersOf(const State& state, const JobEntry& job, int64_t step) {
  std::vector<std::string> users;
  const v1::Job& shown = job.job();
  const bool restoring = !job.attempt.ranks.empty() && shown.attempts_size() > 0 &&
                         shown.attempts(shown.attempts_size() - 1).restored_step() == step;
  if (restoring || (!HasEnded(shown.state()) && RestorableStep(job) == step)) {
    users.emplace_back("restart");
  }
  for (const auto& [call, sample] : state.samples) {
    if (sample.job_id != shown.id() || sample.step != step) continue;
    users.emplace_back("sample");
    break;
  }
  if (const auto forks = job.forks.find(step); forks != job.forks.end()) {
    for (const std::string& id : forks->second) users.push_back(JobName(id));
  }
  return users;
}

bool IsDamaged(const JobEntry& job, int64_t step) {
  const auto& damaged = job.record.damaged_steps();
  return std::find(damaged.begin(), damaged.end(), step) != damaged.end();
}

int64_t RestorableStep(const JobEntry& job) {
  for (auto it = job.checkpoints.rbegin(); it != job.checkpoints.rend(); ++it) {
    if (!IsDamaged(job, it->first)) return it->first;
  }
  return 0;
}

RestorePoint RestorePointOf(const JobEntry& job) {
  if (const int64_t step = RestorableStep(job); step > 0) return {job.job().id(), step};
  return {job.record.source_job(), job.record.source_step()};
}

void UpdateForkUse(State& state, const JobEntry& job) {
  const auto source = state.jobs.find(job.record.source_job());
  if (job.record.source_step() == 0 || source == state.jobs.end()) return;
  std::map<int64_t, std::set<std::string>>& forks = source->second.forks;
  const int64_t step = job.record.source_step();
  if (!HasEnded(job.job().state()) && RestorableStep(job) == 0) {
    forks[step].insert(job.job().id());
  } else if (const auto it = forks.find(step); it != forks.end()) {
    it->second.erase(job.job().id());
    if (it->second.empty()) forks.erase(it);
  }
}

void OnCommitManifest(Transition& t, const CommitManifest& event) {
  const worker::v1::Manifest& manifest = event.manifest;
  JobEntry* job = FindJob(t, manifest.job_id());
  if (job == nullptr) {
    t.ReplyError(event.call, MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                                       absl::StrCat(JobName(manifest.job_id()), " doesn't exist")));
    return;
  }
  const bool current = job->job().epoch() == manifest.epoch() && !job->attempt.ranks.empty();
  if (!current && !Planted(Fault::kManifestEpochIgnored)) {
    t.ReplyError(event.call,
                 MakeError(absl::StatusCode::kAborted, v1::STALE_EPOCH,
                           absl::StrCat("epoch ", manifest.epoch(), " of ", job->job().name(),
                                        " has ended; the job is at epoch ", job->job().epoch())));
    return;
  }
  const int64_t step = manifest.step();
  t.Emit(WriteRecord{ManifestKey(manifest.job_id(), step), manifest.SerializeAsString()});
  RecordManifestThresholds(t, manifest);
  DropCalibration(t, *job, step);  // of an older epoch
  job->checkpoints[step] = manifest.epoch();
  auto* damaged = job->record.mutable_damaged_steps();
  damaged->erase(std::remove(damaged->begin(), damaged->end(), step), damaged->end());
  job->job().set_latest_checkpoint_step(job->checkpoints.rbegin()->first);
  AddJobEvent(t, *job, absl::StrCat("checkpoint of step ", step, " committed"));
  ApplyRetention(t, *job);
  UpdateForkUse(t.state, *job);
  if (JobEntry* source = FindJob(t, job->record.source_job())) ApplyRetention(t, *source);
  t.Emit(Reply{event.call, absl::OkStatus(), {}, /*waits_for_store=*/true});
  GrowIfRoom(t, *job);
}

void OnCheckpointDamaged(Transition& t, const CheckpointDamaged& event) {
  JobEntry* job = FindJob(t, event.job_id);
  if (job == nullptr || !job->checkpoints.contains(event.step) || IsDamaged(*job, event.step))
    return;
  job->record.add_damaged_steps(event.step);
  const int64_t usable = RestorableStep(*job);
  job->job().set_latest_checkpoint_step(usable > 0 ? usable : -1);
  AddJobEvent(t, *job,
              absl::StrCat("checkpoint of step ", event.step,
                           " is damaged and not used any more: ", event.reason),
              /*warning=*/true);
}

void ApplyRetention(Transition& t, JobEntry& job) {
  const v1::CheckpointSpec& spec = job.job().spec().checkpoint();
  const int keep = std::max(1, spec.keep());
  const int64_t every = spec.keep_every_steps();
  const std::set<int64_t> used = UsedSteps(t.state, job);
  int kept = 0;
  std::vector<int64_t> unwanted;
  for (auto it = job.checkpoints.rbegin(); it != job.checkpoints.rend(); ++it) {
    const bool damaged = IsDamaged(job, it->first);
    const bool milestone = every > 0 && it->first % every == 0 && !damaged;
    if (!damaged && kept < keep) {
      ++kept;
    } else if (kept >= keep && !milestone && !IsPinned(job, it->first) &&
               !used.contains(it->first)) {
      unwanted.push_back(it->first);
    }
  }
  for (const int64_t step : unwanted) DropCheckpoint(t, job, step);
}

void OnPinCheckpoint(Transition& t, const PinCheckpoint& event) {
  JobEntry* job = FindCheckpointOrReply(t, event.call, event.job_id, event.step);
  if (job == nullptr) return;
  if (event.pinned && !IsPinned(*job, event.step)) {
    job->record.add_pinned_steps(event.step);
    AddJobEvent(t, *job, absl::StrCat("checkpoint of step ", event.step, " pinned"));
  } else if (!event.pinned && IsPinned(*job, event.step)) {
    auto* pinned = job->record.mutable_pinned_steps();
    pinned->erase(std::remove(pinned->begin(), pinned->end(), event.step), pinned->end());
    AddJobEvent(t, *job, absl::StrCat("checkpoint of step ", event.step, " unpinned"));
    ApplyRetention(t, *job);
  }
  ReplyJob(t, event.call, event.job_id);
}

void OnDeleteJobCheckpoint(Transition& t, const DeleteJobCheckpoint& event) {
  JobEntry* job = FindCheckpointOrReply(t, event.call, event.job_id, event.step);
  if (job == nullptr) return;
  const std::string name = CheckpointName(event.job_id, event.step);
  std::vector<std::string> users = UsersOf(t.state, *job, event.step);
  if (IsPinned(*job, event.step)) users.insert(users.begin(), "a pin");
  if (!users.empty()) {
    t.ReplyError(event.call,
                 MakeError(absl::StatusCode::kFailedPrecondition, v1::CHECKPOINT_IN_USE,
                           absl::StrCat(name, " is needed by ", absl::StrJoin(users, ", ")), name));
    return;
  }
  DropCheckpoint(t, *job, event.step);
  const int64_t usable = RestorableStep(*job);
  job->job().set_latest_checkpoint_step(usable > 0 ? usable : -1);
  AddJobEvent(t, *job, absl::StrCat("checkpoint of step ", event.step, " deleted"));
  ReplyJob(t, event.call, event.job_id);
}

}  // namespace diffmoe::server
