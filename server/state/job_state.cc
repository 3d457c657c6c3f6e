#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/state/reasons.h"
#include "server/state/records.h"
#include "server/state/time_util.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

QueueKey KeyOf(const JobEntry& job) {
  return {-job.job().priority(), job.record.sequence_number()};
}

void Put(std::set<std::string>* set, const std::string& id, bool in) {
  if (in) {
    set->insert(id);
  } else {
    set->erase(id);
  }
}

}  // namespace

JobEntry* FindJob(Transition& t, const std::string& job_id) {
  const auto it = t.state.jobs.find(job_id);
  return it == t.state.jobs.end() ? nullptr : &it->second;
}

JobEntry* FindJobOrReply(Transition& t, uint64_t call, const std::string& job_id) {
  JobEntry* job = FindJob(t, job_id);
  if (job == nullptr) {
    t.ReplyError(call, MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                                 absl::StrCat(JobName(job_id), " doesn't exist"), JobName(job_id)));
  }
  return job;
}

void ReplyJob(Transition& t, uint64_t call, const std::string& job_id) {
  Reply reply{call, absl::OkStatus(), {}, false};
  reply.job.set_id(job_id);  // completed at the end of the step
  t.Emit(std::move(reply));
}

void ReplyEnded(Transition& t, uint64_t call, const JobEntry& job) {
  t.ReplyError(call, MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_ALREADY_ENDED,
                               absl::StrCat(job.job().name(), " has already ended: ",
                                            v1::JobState_Name(job.job().state())),
                               job.job().name()));
}

void SetJobState(State& state, JobEntry& job, v1::JobState job_state) {
  job.job().set_state(job_state);
  const std::string& id = job.job().id();
  Put(&state.active, id, !HasEnded(job_state));
  Put(&state.placed, id, IsPlaced(job_state));
  if (job.not_before_ms > 0) state.backing_off.erase({job.not_before_ms, id});
  job.not_before_ms = 0;
  if (job_state == v1::QUEUED) {
    state.queue[KeyOf(job)] = id;
    if (IsBehindBlocked(state, job)) return;
  } else {
    state.queue.erase(KeyOf(job));
  }
  state.schedule_due = true;
}

void BackOff(State& state, JobEntry& job, int64_t not_before_ms) {
  SetJobState(state, job, v1::QUEUED);
  state.queue.erase(KeyOf(job));
  job.not_before_ms = not_before_ms;
  state.backing_off.emplace(not_before_ms, job.job().id());
}

void SetReason(Transition& t, JobEntry& job, v1::ReasonCode code, const std::string& reason) {
  v1::Job& shown = job.job();
  if (shown.reason_code() == code && shown.reason() == reason) return;
  shown.set_reason_code(code);
  shown.set_reason(reason);
  shown.set_next_command(NextCommand(shown));
  t.progressed_jobs.insert(shown.id());
}

void AddJobEvent(Transition& t, JobEntry& job, const std::string& message, bool warning) {
  const std::string& id = job.job().id();
  const int64_t sequence = job.record.next_event_sequence();
  job.record.set_next_event_sequence(sequence + 1);
  v1::JobEvent event;
  event.set_sequence(sequence);
  SetTimestamp(event.mutable_time(), t.now.unix_ms);
  event.set_state(job.job().state());
  event.set_epoch(job.job().epoch());
  event.set_message(message);
  event.set_reason_code(job.job().reason_code());
  t.Emit(WriteRecord{EventKey(id, sequence), event.SerializeAsString()});
  t.Emit(JobLogged{id, job.job().epoch(), message, warning});
  t.job_events[id].push_back(std::move(event));
  t.changed_jobs.insert(id);
}

void EndJob(Transition& t, JobEntry& job, v1::JobState state, v1::ReasonCode code,
            const std::string& reason) {
  SetJobState(t.state, job, state);
  SetReason(t, job, code, reason);
  SetTimestamp(job.job().mutable_end_time(), t.now.unix_ms);
  AddJobEvent(t, job, reason, state == v1::FAILED);
  UpdateForkUse(t.state, job);
  ApplyRetention(t, job);
  if (JobEntry* source = FindJob(t, job.record.source_job())) ApplyRetention(t, *source);
}

}  // namespace diffmoe::server
