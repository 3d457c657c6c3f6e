#include <algorithm>

#include "absl/strings/str_cat.h"
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
  return used;
}

}  // namespace

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
  job->checkpoints[step] = manifest.epoch();
  auto* damaged = job->record.mutable_damaged_steps();
  damaged->erase(std::remove(damaged->begin(), damaged->end(), step), damaged->end());
  job->job().set_latest_checkpoint_step(job->checkpoints.rbegin()->first);
  AddJobEvent(t, *job, absl::StrCat("checkpoint of step ", step, " committed"));
  ApplyRetention(t, *job);
  t.Emit(Reply{event.call, absl::OkStatus(), {}, /*waits_for_store=*/true});
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
  const int keep = std::max(1, job.job().spec().checkpoint().keep());
  const std::set<int64_t> used = UsedSteps(t.state, job);
  int kept = 0;
  std::vector<int64_t> unwanted;
  for (auto it = job.checkpoints.rbegin(); it != job.checkpoints.rend(); ++it) {
    if (!IsDamaged(job, it->first) && kept < keep) {
      ++kept;
    } else if (!used.contains(it->first) && kept >= keep) {
      unwanted.push_back(it->first);
    }
  }
  for (const int64_t step : unwanted) {
    t.Emit(DeleteRecord{ManifestKey(job.job().id(), step)});
    t.Emit(DeleteCheckpoint{job.job().id(), step, job.checkpoints.at(step)});
    job.checkpoints.erase(step);
  }
}

}  // namespace diffmoe::server
