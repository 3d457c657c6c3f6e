#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

constexpr int kMaxLabels = 32;

void Cancel(Transition& t, JobEntry& job) {
  job.record.set_cancel_requested(true);
  if (!IsPlaced(job.job().state())) {
    EndJob(t, job, v1::CANCELLED, v1::REASON_CANCELLED,
           job.job().state() == v1::PAUSED ? "cancelled while it was paused"
                                           : "cancelled while it waited");
    return;
  }
  SetJobState(t.state, job, v1::CANCELLING);
  SetReason(t, job, v1::REASON_STOPPING, "cancelled; its ranks are being stopped");
  AddJobEvent(t, job, "cancel requested");
  StopAttempt(t, job, StopKind::kCancel, "the job was cancelled");
  SettleAttempt(t, job);
}

void Pause(Transition& t, JobEntry& job) {
  job.record.set_pause_requested(true);
  if (!IsPlaced(job.job().state())) {
    SetJobState(t.state, job, v1::PAUSED);
    SetReason(t, job, v1::REASON_PAUSED, "paused while it waited");
    AddJobEvent(t, job, job.job().reason());
    return;
  }
  SetJobState(t.state, job, v1::PAUSING);
  SetReason(t, job, v1::REASON_STOPPING, "pausing; its ranks save a checkpoint and end");
  AddJobEvent(t, job, "pause requested");
  // An attempt that ends for another reason isn't asked for a checkpoint any more.
  if (!job.attempt.stop) StopAttempt(t, job, StopKind::kPause, "the job is paused");
  SettleAttempt(t, job);
}

}  // namespace

void OnCancelJob(Transition& t, const CancelJob& event) {
  JobEntry* job = FindJobOrReply(t, event.call, event.job_id);
  if (job == nullptr) return;
  const v1::JobState state = job->job().state();
  if (state == v1::SUCCEEDED || state == v1::FAILED) return ReplyEnded(t, event.call, *job);
  if (state != v1::CANCELLED && state != v1::CANCELLING) Cancel(t, *job);
  ReplyJob(t, event.call, event.job_id);
}

void OnPauseJob(Transition& t, const PauseJob& event) {
  JobEntry* job = FindJobOrReply(t, event.call, event.job_id);
  if (job == nullptr) return;
  const v1::JobState state = job->job().state();
  if (HasEnded(state) || state == v1::CANCELLING) return ReplyEnded(t, event.call, *job);
  if (!job->record.pause_requested()) Pause(t, *job);
  ReplyJob(t, event.call, event.job_id);
}

void OnResumeJob(Transition& t, const ResumeJob& event) {
  JobEntry* job = FindJobOrReply(t, event.call, event.job_id);
  if (job == nullptr) return;
  const v1::JobState state = job->job().state();
  if (HasEnded(state) || state == v1::CANCELLING) return ReplyEnded(t, event.call, *job);
  if (job->record.pause_requested()) {
    job->record.set_pause_requested(false);
    if (state == v1::PAUSED) {
      SetJobState(t.state, *job, v1::QUEUED);
      SetReason(t, *job, v1::REASON_SUBMITTED, "resumed");
    }
    // While it is PAUSING its ranks end first; then it is queued.
    AddJobEvent(t, *job, "resume requested");
  }
  ReplyJob(t, event.call, event.job_id);
}

void OnUpdateJob(Transition& t, const UpdateJob& event) {
  JobEntry* job = FindJobOrReply(t, event.call, event.job_id);
  if (job == nullptr) return;
  v1::Job& shown = job->job();
  if (event.priority && HasEnded(shown.state())) return ReplyEnded(t, event.call, *job);
  auto labels = shown.labels();
  for (const auto& [key, value] : event.set_labels) labels[key] = value;
  for (const std::string& key : event.remove_labels) labels.erase(key);
  if (labels.size() > kMaxLabels) {
    t.ReplyError(event.call,
                 MakeViolations(v1::INVALID_REQUEST,
                                {Violation("set_labels",
                                           absl::StrCat("expected at most ", kMaxLabels,
                                                        " labels in all, got ", labels.size()))}));
    return;
  }
  *shown.mutable_labels() = std::move(labels);
  if (event.priority && *event.priority != shown.priority()) {
    // The queue is ordered by priority.
    const bool queued = t.state.queue.erase({-shown.priority(), job->record.sequence_number()}) > 0;
    shown.set_priority(*event.priority);
    if (queued) t.state.queue[{-shown.priority(), job->record.sequence_number()}] = shown.id();
    t.state.schedule_due = true;
    AddJobEvent(t, *job, absl::StrCat("priority is now ", *event.priority));
  }
  t.changed_jobs.insert(shown.id());
  ReplyJob(t, event.call, event.job_id);
}

}  // namespace diffmoe::server
