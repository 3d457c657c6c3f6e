#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "server/state/records.h"
#include "server/state/retry_policy.h"
#include "server/state/time_util.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

std::string WorkersOf(const std::vector<v1::Placement>& placements) {
  std::set<std::string> names;
  for (const v1::Placement& placement : placements) names.insert(placement.worker_id());
  std::string text;
  for (const std::string& name : names) absl::StrAppend(&text, text.empty() ? "" : ", ", name);
  return text;
}

void SendStartRanks(Transition& t, const JobEntry& job, const RestorePoint& restore) {
  for (size_t rank = 0; rank < job.attempt.ranks.size(); ++rank) {
    const RankEntry& entry = job.attempt.ranks[rank];
    worker::v1::CoordinatorMessage message;
    worker::v1::StartRank* start = message.mutable_start_rank();
    start->mutable_group()->set_id(job.job().id());
    start->mutable_group()->set_epoch(job.job().epoch());
    start->set_rank(static_cast<int>(rank));
    start->set_world_size(static_cast<int>(job.attempt.ranks.size()));
    start->set_slot(entry.slot);
    start->set_role(worker::v1::ROLE_TRAIN);
    *start->mutable_spec() = job.job().spec();
    if (restore.step > 0) start->set_restore_job(restore.job_id);
    start->set_restore_step(restore.step);
    Send(t, entry.worker_id, std::move(message));
  }
}

// The job whose running attempt the message belongs to; null when it is of an older one.
JobEntry* CurrentJob(Transition& t, const worker::v1::GroupId& group, int rank) {
  JobEntry* job = FindJob(t, group.id());
  if (job == nullptr) return nullptr;
  if (job->job().epoch() != group.epoch() && !Planted(Fault::kReportEpochIgnored)) return nullptr;
  if (rank < 0 || rank >= static_cast<int>(job->attempt.ranks.size())) return nullptr;
  return job;
}

SamplerEntry* CurrentSampler(Transition& t, const worker::v1::GroupId& group) {
  const auto it = t.state.samplers.find(group.id());
  if (it == t.state.samplers.end() || it->second.epoch != group.epoch()) return nullptr;
  return &it->second;
}

void RecordSteps(Transition& t, const JobEntry& job, const worker::v1::RankReport& report) {
  if (report.records().empty()) return;
  internal::v1::StepRecords records;
  *records.mutable_records() = report.records();
  t.Emit(WriteRecord{StepsKey(job.job().id(), records.records(0).step(), job.job().epoch()),
                     records.SerializeAsString()});
}

void RecordThresholds(Transition& t, const JobEntry& job, const v1::Progress& progress) {
  v1::ThresholdPoint point;
  point.set_step(progress.step());
  for (const v1::LayerStats& layer : progress.layers()) {
    if (layer.thresholds().empty()) continue;
    v1::LayerThresholds* thresholds = point.add_layers();
    thresholds->set_block(layer.block());
    *thresholds->mutable_thresholds() = layer.thresholds();
  }
  if (point.layers().empty()) return;
  t.Emit(WriteRecord{ThresholdsKey(job.job().id(), progress.step()), point.SerializeAsString()});
}

void OnProgress(Transition& t, JobEntry& job, const worker::v1::RankReport& report) {
  v1::Job& shown = job.job();
  *shown.mutable_progress() = report.progress();
  v1::Progress* progress = shown.mutable_progress();
  if (progress->total_steps() == 0) progress->set_total_steps(shown.spec().train().steps());
  if (shown.attempts_size() > 0) {
    shown.mutable_attempts(shown.attempts_size() - 1)->set_last_step(progress->step());
  }
  RecordThresholds(t, job, *progress);
  if (shown.state() == v1::STARTING && !job.attempt.stop) {
    SetJobState(t.state, job, v1::RUNNING);
    if (!shown.has_start_time()) SetTimestamp(shown.mutable_start_time(), t.now.unix_ms);
    const size_t ranks = job.attempt.ranks.size();
    const auto wanted = static_cast<size_t>(shown.spec().parallel().ranks());
    SetReason(t, job, v1::REASON_TRAINING,
              absl::StrCat(
                  "training on ", ranks, ranks == 1 ? " rank" : " ranks",
                  ranks < wanted ? absl::StrCat(" of ", wanted, "; grows at a checkpoint") : ""));
    AddJobEvent(t, job, absl::StrCat("running at step ", progress->step()));
  }
  t.changed_jobs.insert(shown.id());
}

bool Saves(StopKind kind) { return kind == StopKind::kPause || kind == StopKind::kPreempt; }

int64_t GraceMs(const StateOptions& options, StopKind kind) {
  if (Saves(kind)) return options.save_stop_grace_ms;
  return kind == StopKind::kCancel ? options.cancel_stop_grace_ms : options.failure_stop_grace_ms;
}

std::set<std::string> LivingWorkers(const AttemptEntry& attempt) {
  std::set<std::string> workers;
  for (const RankEntry& rank : attempt.ranks) {
    if (rank.Alive()) workers.insert(rank.worker_id);
  }
  return workers;
}

}  // namespace

void StartAttempt(Transition& t, JobEntry& job, const std::vector<v1::Placement>& placements) {
  v1::Job& shown = job.job();
  shown.set_epoch(shown.epoch() + 1);
  const RestorePoint restore =
      Planted(Fault::kRestoreFromBeginning) ? RestorePoint{} : RestorePointOf(job);
  v1::Attempt* attempt = shown.add_attempts();
  attempt->set_epoch(shown.epoch());
  SetTimestamp(attempt->mutable_start_time(), t.now.unix_ms);
  attempt->set_restored_step(restore.step);
  if (restore.step > 0) attempt->set_restored_from(CheckpointName(restore.job_id, restore.step));
  attempt->set_last_step(restore.step);
  job.attempt = {};
  for (const v1::Placement& placement : placements) {
    *attempt->add_placements() = placement;
    RankEntry& rank = job.attempt.ranks.emplace_back();
    rank.worker_id = placement.worker_id();
    rank.slot = placement.slot();
    t.state.workers.at(rank.worker_id).slots.at(static_cast<size_t>(rank.slot)).user =
        SlotUser{shown.id(), shown.epoch(), placement.rank()};
  }
  while (shown.attempts_size() > t.options().max_kept_attempts) {
    shown.mutable_attempts()->DeleteSubrange(0, 1);
  }
  SetJobState(t.state, job, v1::STARTING);
  SetReason(t, job, v1::REASON_STARTING,
            absl::StrCat("starting ", placements.size(),
                         placements.size() == 1 ? " rank on " : " ranks on ", WorkersOf(placements),
                         restore.step > 0 ? absl::StrCat(" from step ", restore.step) : ""));
  AddJobEvent(t, job, shown.reason());
  t.Emit(GroupStarted{shown.id(), shown.epoch()});
  SendStartRanks(t, job, restore);
}

void OnRankStarted(Transition& t, const RankStarted& event) {
  WorkerEntry* worker = Heard(t, event.session);
  if (worker == nullptr) return;
  const worker::v1::GroupId& group = event.message.group();
  if (CurrentSampler(t, group) != nullptr) return;  // it is ready when it has its session
  if (JobEntry* job = CurrentJob(t, group, event.message.rank())) {
    RankEntry& rank = job->attempt.ranks[static_cast<size_t>(event.message.rank())];
    if (rank.phase == RankPhase::kExpected) rank.phase = RankPhase::kRunning;
    return;
  }
  SendStopGroup(t, worker->id, group.id(), group.epoch(), 0, "it was replaced");
}

void OnRankReported(Transition& t, const RankReported& event) {
  WorkerEntry* worker = Heard(t, event.session);
  if (worker == nullptr) return;
  const worker::v1::RankReport& report = event.message;
  JobEntry* job = CurrentJob(t, report.group(), report.rank());
  if (job == nullptr) {
    SendStopGroup(t, worker->id, report.group().id(), report.group().epoch(), 0, "it was replaced");
    return;
  }
  RankEntry& rank = job->attempt.ranks[static_cast<size_t>(report.rank())];
  if (rank.phase == RankPhase::kExpected) rank.phase = RankPhase::kRunning;
  RecordSteps(t, *job, report);
  if (report.has_progress()) OnProgress(t, *job, report);
}

void OnRankExited(Transition& t, const RankExited& event) {
  WorkerEntry* worker = Heard(t, event.session);
  if (worker == nullptr) return;
  const worker::v1::RankExited& exited = event.message;
  if (!Planted(Fault::kSlotNeverFreed)) {
    FreeSlot(t, worker->id, {exited.group().id(), exited.group().epoch(), exited.rank()});
  }
  t.state.schedule_due = true;
  if (const SamplerEntry* sampler = CurrentSampler(t, exited.group()); sampler != nullptr) {
    // Stopped, but not by the coordinator: the worker ends.
    if (exited.cause() == worker::v1::EXIT_CAUSE_STOPPED &&
        sampler->phase != SamplerPhase::kStopping) {
      worker->no_samplers_until_ms = std::numeric_limits<int64_t>::max();
    }
    SamplerGone(t, exited.group().id(), ExitFailure(exited, worker->id).text);
    return;
  }
  JobEntry* job = CurrentJob(t, exited.group(), exited.rank());
  if (job == nullptr) return;
  RankEntry& rank = job->attempt.ranks[static_cast<size_t>(exited.rank())];
  if (!rank.Alive()) return;
  if (exited.cause() == worker::v1::EXIT_CAUSE_DONE) {
    rank.phase = RankPhase::kDone;
    rank.done_step = exited.step();
    SettleAttempt(t, *job);
    return;
  }
  // Also by the ranks' agreement, before its own worker was told.
  const bool stopped = exited.cause() == worker::v1::EXIT_CAUSE_STOPPED ||
                       (exited.cause() == worker::v1::EXIT_CAUSE_ERROR &&
                        exited.status_code() == static_cast<int>(absl::StatusCode::kCancelled));
  if (stopped && job->attempt.stop) {
    rank.phase = RankPhase::kGone;
    SettleAttempt(t, *job);
    return;
  }
  FailRank(t, *job, exited.rank(), ExitFailure(exited, worker->id));
}

void FailRank(Transition& t, JobEntry& job, int rank, Failure failure) {
  job.attempt.ranks[static_cast<size_t>(rank)].phase = RankPhase::kGone;
  if (failure.step == 0) failure.step = job.job().progress().step();
  if (!job.attempt.failure || Strength(failure.cause) > Strength(job.attempt.failure->cause)) {
    job.attempt.failure = failure;
  }
  // The others can't save a checkpoint without this one.
  if (!job.attempt.stop || Saves(*job.attempt.stop)) {
    AddJobEvent(t, job, failure.text, /*warning=*/true);
    if (job.job().state() == v1::STARTING || job.job().state() == v1::RUNNING) {
      SetReason(t, job, v1::REASON_STOPPING,
                absl::StrCat(failure.text, "; stopping the other ranks"));
    }
    StopAttempt(t, job, StopKind::kFailure, "another rank of the job has failed");
  }
  SettleAttempt(t, job);
}

void RepeatStop(Transition& t, const JobEntry& job, const std::string& worker_id) {
  const AttemptEntry& attempt = job.attempt;
  SendStopGroup(t, worker_id, job.job().id(), job.job().epoch(),
                GraceMs(t.options(), *attempt.stop), attempt.stop_reason, Saves(*attempt.stop));
}

int64_t StopLimitMs(const StateOptions& options, const AttemptEntry& attempt) {
  return attempt.stop_since_ms + options.stop_limit_ms +
         (Saves(*attempt.stop) ? options.save_stop_grace_ms : 0);
}

void StopAttempt(Transition& t, JobEntry& job, StopKind kind, const std::string& reason) {
  AttemptEntry& attempt = job.attempt;
  attempt.stop = kind;
  attempt.stop_reason = reason;
  attempt.stop_since_ms = t.now.monotonic_ms;
  attempt.stop_sent_ms = t.now.monotonic_ms;
  if (Planted(Fault::kSlotFreedEarly)) {
    for (size_t i = 0; i < attempt.ranks.size(); ++i) {
      FreeSlot(t, attempt.ranks[i].worker_id,
               {job.job().id(), job.job().epoch(), static_cast<int>(i)});
    }
  }
  for (const std::string& worker_id : LivingWorkers(attempt)) RepeatStop(t, job, worker_id);
}

void SettleAttempt(Transition& t, JobEntry& job) {
  for (const RankEntry& rank : job.attempt.ranks) {
    if (rank.Alive()) return;
  }
  t.Emit(GroupEnded{job.job().id(), job.job().epoch()});
  ConcludeAttempt(t, job);
}

void TickAttempts(Transition& t) {
  const int64_t now_ms = t.now.monotonic_ms;
  const StateOptions& options = t.options();
  const std::vector<std::string> placed(t.state.placed.begin(), t.state.placed.end());
  for (const std::string& id : placed) {
    JobEntry& job = t.state.jobs.at(id);
    const int64_t epoch = job.job().epoch();
    const bool give_up_stop = job.attempt.stop && now_ms >= StopLimitMs(options, job.attempt);
    const bool adoption_over = job.attempt.adopt_until_ms && now_ms >= *job.attempt.adopt_until_ms;
    // Concluding an attempt clears its ranks.
    for (size_t i = 0; job.job().epoch() == epoch && i < job.attempt.ranks.size(); ++i) {
      const RankEntry& rank = job.attempt.ranks[i];
      if (!rank.Alive()) continue;
      const std::string who = absl::StrCat("rank ", i, " on worker ", rank.worker_id);
      const bool missing =
          rank.missing_since_ms && now_ms >= *rank.missing_since_ms + options.missing_rank_grace_ms;
      if (missing) {
        FailRank(
            t, job, static_cast<int>(i),
            {v1::END_CAUSE_WORKER_STOPPED, who + " was gone when the worker came back", 0, 0, 0});
      } else if (adoption_over && rank.phase == RankPhase::kExpected) {
        FailRank(t, job, static_cast<int>(i),
                 {v1::END_CAUSE_COORDINATOR_RESTART,
                  who + " was not announced after the restart of the coordinator", 0, 0, 0});
      } else if (give_up_stop) {
        FailRank(t, job, static_cast<int>(i),
                 {v1::END_CAUSE_WORKER_LOST, who + " did not end when it was told to", 0, 0, 0});
      }
    }
    if (adoption_over && job.job().epoch() == epoch) job.attempt.adopt_until_ms.reset();
    if (!job.attempt.stop || now_ms < job.attempt.stop_sent_ms + options.stop_repeat_ms) continue;
    job.attempt.stop_sent_ms = now_ms;
    for (const std::string& worker_id : LivingWorkers(job.attempt)) RepeatStop(t, job, worker_id);
  }
}

}  // namespace diffmoe::server
