#include "server/state/step.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "server/state/records.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

struct Dispatch {
  Transition& t;
  void operator()(const Restarted&) { OnRestarted(t); }
  void operator()(const Resumed&) { OnResumed(t); }
  void operator()(const Tick&) {
    TickWorkers(t);
    TickAttempts(t);
    TickSamplers(t);
    TickSamples(t);
    t.state.schedule_due = true;
  }
  void operator()(const Schedule&) {
    if (t.state.schedule_due) ScheduleJobs(t);
    t.state.schedule_due = false;
    ScheduleSamplers(t);
    t.state.samples_due = false;
  }
  void operator()(const SubmitJob& event) { OnSubmitJob(t, event); }
  void operator()(const ForkJob& event) { OnForkJob(t, event); }
  void operator()(const RetryJob& event) { OnRetryJob(t, event); }
  void operator()(const CancelJob& event) { OnCancelJob(t, event); }
  void operator()(const PauseJob& event) { OnPauseJob(t, event); }
  void operator()(const ResumeJob& event) { OnResumeJob(t, event); }
  void operator()(const UpdateJob& event) { OnUpdateJob(t, event); }
  void operator()(const PinCheckpoint& event) { OnPinCheckpoint(t, event); }
  void operator()(const DeleteJobCheckpoint& event) { OnDeleteJobCheckpoint(t, event); }
  void operator()(const WorkerHello& event) { OnWorkerHello(t, event); }
  void operator()(const WorkerHeartbeat& event) { OnWorkerHeartbeat(t, event); }
  void operator()(const RankStarted& event) { OnRankStarted(t, event); }
  void operator()(const RankReported& event) { OnRankReported(t, event); }
  void operator()(const RankExited& event) { OnRankExited(t, event); }
  void operator()(const SessionClosed& event) { OnSessionClosed(t, event); }
  void operator()(const CommitManifest& event) { OnCommitManifest(t, event); }
  void operator()(const CheckpointDamaged& event) { OnCheckpointDamaged(t, event); }
  void operator()(const SubmitSample& event) { OnSubmitSample(t, event); }
  void operator()(const SubmitCalibration& event) { OnSubmitCalibration(t, event); }
  void operator()(const CancelSample& event) { OnCancelSample(t, event); }
  void operator()(const CancelSampleById& event) { OnCancelSampleById(t, event); }
  void operator()(const SamplerConnected& event) { OnSamplerConnected(t, event); }
  void operator()(const SamplerUpdated& event) { OnSamplerUpdated(t, event); }
  void operator()(const SamplerDisconnected& event) { OnSamplerDisconnected(t, event); }
};

void WriteChangedJobs(Transition& t) {
  for (const std::string& id : t.changed_jobs) {
    const JobEntry& job = t.state.jobs.at(id);
    t.Emit(WriteRecord{JobKey(id), job.record.SerializeAsString()});
  }
  t.progressed_jobs.insert(t.changed_jobs.begin(), t.changed_jobs.end());
  for (const std::string& id : t.progressed_jobs) {
    t.Emit(PublishJob{t.state.jobs.at(id).job(), std::move(t.job_events[id])});
  }
}

// A reply holds the job as it is at the end of the step.
void CompleteReplies(Transition& t) {
  for (Effect& effect : t.effects) {
    auto* reply = std::get_if<Reply>(&effect);
    if (reply != nullptr && !reply->job.id().empty()) {
      reply->job = t.state.jobs.at(reply->job.id()).job();
    }
  }
}

}  // namespace

Effects Step(State& state, const Event& event, Now now) {
  Transition t{state, now, {}, {}, {}, {}};
  std::visit(Dispatch{t}, event);
  CompleteReplies(t);
  WriteChangedJobs(t);
  return std::move(t.effects);
}

int64_t NextWakeupMs(const State& state) {
  const StateOptions& options = state.options;
  int64_t next = std::numeric_limits<int64_t>::max();
  const auto at = [&next](int64_t time_ms) { next = std::min(next, time_ms); };
  for (const auto& [id, worker] : state.workers) {
    if (worker.lost) {
      at(worker.silent_since_ms + options.forget_worker_ms);
    } else if (worker.silent) {
      at(worker.silent_since_ms + options.worker_grace_ms);
    } else {
      at(worker.last_heard_ms + options.silence_limit_ms);
    }
  }
  if (!state.backing_off.empty()) at(state.backing_off.begin()->first);
  for (const std::string& id : state.placed) {
    const JobEntry& job = state.jobs.at(id);
    if (job.attempt.adopt_until_ms) at(*job.attempt.adopt_until_ms);
    if (job.attempt.stop) {
      at(job.attempt.stop_sent_ms + options.stop_repeat_ms);
      at(StopLimitMs(options, job.attempt));
    }
    for (const RankEntry& rank : job.attempt.ranks) {
      if (rank.Alive() && rank.missing_since_ms) {
        at(*rank.missing_since_ms + options.missing_rank_grace_ms);
      }
    }
  }
  for (const auto& [id, sampler] : state.samplers) {
    if (sampler.phase == SamplerPhase::kStopping) {
      at(sampler.stop_since_ms + options.stop_limit_ms);
    } else if (sampler.phase == SamplerPhase::kStarting) {
      at(sampler.start_since_ms + options.sampler_start_ms);
    } else if (sampler.phase == SamplerPhase::kReady) {
      if (sampler.calls.empty()) at(sampler.idle_since_ms + options.sampler_idle_ms);
      if (!state.sample_queue.empty()) {
        if (sampler.not_before_ms > 0) at(sampler.not_before_ms);
        if (sampler.avoid_until_ms > 0) at(sampler.avoid_until_ms);
      }
    }
  }
  if (!state.sample_queue.empty()) {
    for (const auto& [id, worker] : state.workers) {
      if (worker.no_samplers_until_ms > 0) at(worker.no_samplers_until_ms);
    }
  }
  if (!state.sample_deadlines.empty()) at(state.sample_deadlines.begin()->first);
  return next;
}

bool ScheduleDue(const State& state) { return state.schedule_due || state.samples_due; }

bool IsRequest(const Event& event) {
  return std::visit(
      []<typename E>(const E&) {
        return std::is_same_v<E, SubmitJob> || std::is_same_v<E, ForkJob> ||
               std::is_same_v<E, RetryJob> || std::is_same_v<E, CancelJob> ||
               std::is_same_v<E, PauseJob> || std::is_same_v<E, ResumeJob> ||
               std::is_same_v<E, UpdateJob> || std::is_same_v<E, PinCheckpoint> ||
               std::is_same_v<E, DeleteJobCheckpoint> || std::is_same_v<E, SubmitSample> ||
               std::is_same_v<E, SubmitCalibration> || std::is_same_v<E, CancelSampleById>;
      },
      event);
}

std::string JobName(const std::string& job_id) { return absl::StrCat("jobs/", job_id); }

std::string CheckpointName(const std::string& job_id, int64_t step) {
  return absl::StrCat("jobs/", job_id, "/checkpoints/", step);
}

}  // namespace diffmoe::server
