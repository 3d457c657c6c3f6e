#include <map>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/errors.h"
#include "server/scheduler/placement.h"
#include "server/state/records.h"
#include "server/state/time_util.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

void ReplyJob(Transition& t, uint64_t call, const std::string& job_id) {
  Reply reply{call, absl::OkStatus(), {}, false};
  reply.job.set_id(job_id);  // completed at the end of the step
  t.Emit(std::move(reply));
}

std::string NewJobId(Transition& t, const std::string& name) {
  int64_t number = t.state.header.next_job_number();
  if (number == 0) number = 1;
  t.state.header.set_next_job_number(number + 1);
  if (!Planted(Fault::kJobNumberLost)) {
    t.Emit(WriteRecord{kHeaderKey, t.state.header.SerializeAsString()});
  }
  return absl::StrCat(name, "-", number);
}

void AddJob(Transition& t, const SubmitJob& event) {
  const std::string id = NewJobId(t, event.spec.name());
  JobEntry& entry = t.state.jobs[id];
  entry.record.set_sequence_number(t.state.header.next_job_number() - 1);
  entry.record.set_next_event_sequence(1);
  entry.record.set_request_id(event.request_id);
  entry.record.set_request_hash(event.request_hash);
  v1::Job& job = entry.job();
  job.set_name(JobName(id));
  job.set_id(id);
  *job.mutable_spec() = event.spec;
  job.set_state(v1::QUEUED);
  job.set_reason("submitted");
  SetTimestamp(job.mutable_create_time(), t.now.unix_ms);
  job.set_latest_checkpoint_step(-1);
  job.mutable_progress()->set_total_steps(event.spec.train().steps());
  t.state.jobs_by_number[entry.record.sequence_number()] = id;
  if (!event.request_id.empty()) t.state.jobs_by_request_id[event.request_id] = id;
  t.state.active.insert(id);
  AddJobEvent(t, entry, "submitted");
  ReplyJob(t, event.call, id);
  t.schedule = true;
}

std::string SpecDeviceKind(const v1::TrainingSpec& spec) {
  return spec.parallel().device() == v1::DEVICE_CUDA ? "cuda" : "cpu";
}

std::vector<CandidateSlot> UsableSlots(const State& state) {
  const std::set<std::pair<std::string, int>> reserved = ReservedSlots(state);
  std::vector<CandidateSlot> slots;
  for (const auto& [id, worker] : state.workers) {
    if (!worker.Usable()) continue;
    for (size_t i = 0; i < worker.slots.size(); ++i) {
      const SlotEntry& slot = worker.slots[i];
      const int index = static_cast<int>(i);
      const bool free = !slot.user.has_value() && !reserved.contains({id, index});
      slots.push_back({id, index, slot.device, free});
    }
  }
  return slots;
}

void TakeSlots(const std::vector<PlacedRank>& ranks, std::vector<CandidateSlot>* slots) {
  for (CandidateSlot& slot : *slots) {
    for (const PlacedRank& rank : ranks) {
      if (rank.worker_id == slot.worker_id && rank.slot == slot.slot) slot.free = false;
    }
  }
}

void SetReason(Transition& t, JobEntry& job, const std::string& reason) {
  if (job.job().reason() == reason) return;
  job.job().set_reason(reason);
  t.progressed_jobs.insert(job.job().id());
}

// True when the job was placed.
bool TryPlace(Transition& t, JobEntry& job, const std::string& kind,
              std::vector<CandidateSlot>* slots, bool* fits_some_day) {
  const PlacementResult result = PlaceGang(job.job().spec().parallel().ranks(), kind, *slots);
  *fits_some_day = result.ever;
  if (result.ranks.empty()) {
    const bool yielding = YieldSamplers(t, kind, result.missing);
    t.samplers_yield = t.samplers_yield || yielding;
    SetReason(t, job,
              yielding ? result.reason + "; a sampler is giving up its slot" : result.reason);
    return false;
  }
  std::vector<v1::Placement> placements;
  for (size_t rank = 0; rank < result.ranks.size(); ++rank) {
    v1::Placement& placement = placements.emplace_back();
    placement.set_rank(static_cast<int>(rank));
    placement.set_worker_id(result.ranks[rank].worker_id);
    placement.set_slot(result.ranks[rank].slot);
  }
  TakeSlots(result.ranks, slots);
  StartAttempt(t, job, placements);
  return true;
}

}  // namespace

JobEntry* FindJob(Transition& t, const std::string& job_id) {
  const auto it = t.state.jobs.find(job_id);
  return it == t.state.jobs.end() ? nullptr : &it->second;
}

void AddJobEvent(Transition& t, JobEntry& job, const std::string& message, bool warning) {
  const int64_t sequence = job.record.next_event_sequence();
  job.record.set_next_event_sequence(sequence + 1);
  v1::JobEvent event;
  event.set_sequence(sequence);
  SetTimestamp(event.mutable_time(), t.now.unix_ms);
  event.set_state(job.job().state());
  event.set_epoch(job.job().epoch());
  event.set_message(message);
  t.Emit(WriteRecord{EventKey(job.job().id(), sequence), event.SerializeAsString()});
  t.Emit(JobLogged{job.job().id(), job.job().epoch(), message, warning});
  t.changed_jobs.insert(job.job().id());
}

void OnSubmitJob(Transition& t, const SubmitJob& event) {
  if (!event.request_id.empty()) {
    const auto known = t.state.jobs_by_request_id.find(event.request_id);
    if (known != t.state.jobs_by_request_id.end()) {
      const JobEntry& job = t.state.jobs.at(known->second);
      if (job.record.request_hash() == event.request_hash) {
        ReplyJob(t, event.call, known->second);
      } else {
        t.ReplyError(event.call,
                     MakeError(absl::StatusCode::kAlreadyExists, v1::REQUEST_ID_REUSED,
                               absl::StrCat("request_id \"", event.request_id, "\" was used for ",
                                            job.job().name(), " with another spec"),
                               job.job().name()));
      }
      return;
    }
  }
  if (static_cast<int>(t.state.active.size()) >= t.options().max_active_jobs) {
    t.ReplyError(event.call,
                 MakeRetryableError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                                    absl::StrCat("at most ", t.options().max_active_jobs,
                                                 " jobs may wait or run; cancel some or wait"),
                                    60'000));
    return;
  }
  AddJob(t, event);
}

void OnCancelJob(Transition& t, const CancelJob& event) {
  JobEntry* job = FindJob(t, event.job_id);
  if (job == nullptr) {
    t.ReplyError(event.call, MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                                       absl::StrCat(JobName(event.job_id), " doesn't exist"),
                                       JobName(event.job_id)));
    return;
  }
  const v1::JobState state = job->job().state();
  if (state == v1::SUCCEEDED || state == v1::FAILED) {
    t.ReplyError(
        event.call,
        MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_ALREADY_ENDED,
                  absl::StrCat(job->job().name(), " has already ended: ", v1::JobState_Name(state)),
                  job->job().name()));
    return;
  }
  if (state == v1::QUEUED) {
    job->record.set_cancel_requested(true);
    EndJob(t, *job, v1::CANCELLED, "cancelled while it waited");
  } else if (state == v1::STARTING || state == v1::RUNNING) {
    job->record.set_cancel_requested(true);
    job->job().set_state(v1::CANCELLING);
    job->job().set_reason("cancelled; its ranks are being stopped");
    AddJobEvent(t, *job, "cancel requested");
    if (!job->attempt.ending) StopAttempt(t, *job, "the job was cancelled");
    SettleAttempt(t, *job);
  }
  ReplyJob(t, event.call, event.job_id);
}

void EndJob(Transition& t, JobEntry& job, v1::JobState state, const std::string& reason) {
  job.job().set_state(state);
  job.job().set_reason(reason);
  SetTimestamp(job.job().mutable_end_time(), t.now.unix_ms);
  t.state.active.erase(job.job().id());
  AddJobEvent(t, job, reason, state == v1::FAILED);
  ApplyRetention(t, job);
  t.schedule = true;
}

void ScheduleJobs(Transition& t) {
  std::map<int64_t, std::string> queued;  // by age
  for (const std::string& id : t.state.active) {
    const JobEntry& job = t.state.jobs.at(id);
    if (job.job().state() == v1::QUEUED) queued[job.record.sequence_number()] = id;
  }
  if (queued.empty()) return;
  std::vector<CandidateSlot> slots = UsableSlots(t.state);
  std::map<std::string, std::string> blocked_by;  // device kind -> the job that waits for it
  for (const auto& [number, id] : queued) {
    JobEntry& job = t.state.jobs.at(id);
    if (job.not_before_ms > t.now.monotonic_ms) continue;
    job.not_before_ms = 0;
    const std::string kind = SpecDeviceKind(job.job().spec());
    if (const auto it = blocked_by.find(kind); it != blocked_by.end()) {
      SetReason(t, job, absl::StrCat("waits for its turn behind ", JobName(it->second)));
      continue;
    }
    bool fits_some_day = false;
    // A job that is larger than the cluster holds nobody up.
    if (!TryPlace(t, job, kind, &slots, &fits_some_day) && fits_some_day) blocked_by[kind] = id;
  }
}

}  // namespace diffmoe::server
