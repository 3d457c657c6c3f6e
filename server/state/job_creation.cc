#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/errors.h"
#include "server/state/records.h"
#include "server/state/time_util.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

std::string NewJobId(Transition& t, const std::string& name) {
  int64_t number = t.state.header.next_job_number();
  if (number == 0) number = 1;
  t.state.header.set_next_job_number(number + 1);
  if (!Planted(Fault::kJobNumberLost)) {
    t.Emit(WriteRecord{kHeaderKey, t.state.header.SerializeAsString()});
  }
  return absl::StrCat(name, "-", number);
}

// The same request again: answered with the job that it made, or refused. True when it was.
bool AnswerKnownRequest(Transition& t, uint64_t call, const JobMeta& meta) {
  const auto known = t.state.jobs_by_request_id.find(meta.request_id);
  if (meta.request_id.empty() || known == t.state.jobs_by_request_id.end()) return false;
  const JobEntry& job = t.state.jobs.at(known->second);
  if (job.record.request_hash() == meta.request_hash) {
    ReplyJob(t, call, known->second);
  } else {
    t.ReplyError(call, MakeError(absl::StatusCode::kAlreadyExists, v1::REQUEST_ID_REUSED,
                                 absl::StrCat("request_id \"", meta.request_id, "\" was used for ",
                                              job.job().name(), " with another request"),
                                 job.job().name()));
  }
  return true;
}

// Adds a job and answers the call.
void AddJob(Transition& t, uint64_t call, const v1::TrainingSpec& spec, const JobMeta& meta,
            const RestorePoint& source) {
  if (static_cast<int>(t.state.active.size()) >= t.options().max_active_jobs) {
    t.ReplyError(call,
                 MakeRetryableError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                                    absl::StrCat("at most ", t.options().max_active_jobs,
                                                 " jobs may wait or run; cancel some or wait"),
                                    60'000));
    return;
  }
  const std::string id = NewJobId(t, spec.name());
  JobEntry& entry = t.state.jobs[id];
  entry.record.set_sequence_number(t.state.header.next_job_number() - 1);
  entry.record.set_next_event_sequence(1);
  entry.record.set_request_id(meta.request_id);
  entry.record.set_request_hash(meta.request_hash);
  entry.record.set_source_job(source.job_id);
  entry.record.set_source_step(source.step);
  v1::Job& job = entry.job();
  job.set_name(JobName(id));
  job.set_id(id);
  *job.mutable_spec() = spec;
  job.set_priority(meta.priority);
  for (const auto& [key, value] : meta.labels) (*job.mutable_labels())[key] = value;
  SetTimestamp(job.mutable_create_time(), t.now.unix_ms);
  job.set_latest_checkpoint_step(-1);
  job.mutable_progress()->set_total_steps(spec.train().steps());
  job.mutable_progress()->set_step(source.step);
  if (source.step > 0) job.set_forked_from(CheckpointName(source.job_id, source.step));
  t.state.jobs_by_number[entry.record.sequence_number()] = id;
  if (!meta.request_id.empty()) t.state.jobs_by_request_id[meta.request_id] = id;
  SetJobState(t.state, entry, v1::QUEUED);
  UpdateForkUse(t.state, entry);
  if (IsBehindBlocked(t.state, entry)) {
    ExplainTurn(t, entry);
  } else {
    SetReason(t, entry, v1::REASON_SUBMITTED, "submitted");
  }
  AddJobEvent(
      t, entry,
      source.step > 0 ? absl::StrCat("submitted, to start from ", job.forked_from()) : "submitted");
  ReplyJob(t, call, id);
}

// The checkpoint that a fork means, or an answer to the call.
std::optional<int64_t> ForkStep(Transition& t, const ForkJob& event, const JobEntry& source) {
  const int64_t step = event.step.value_or(RestorableStep(source));
  const std::string name = CheckpointName(event.job_id, step);
  if (step == 0) {
    t.ReplyError(
        event.call,
        MakeRetryableError(absl::StatusCode::kFailedPrecondition, v1::NO_CHECKPOINT_YET,
                           absl::StrCat(JobName(event.job_id), " has no checkpoint yet"), 5000));
  } else if (!source.checkpoints.contains(step)) {
    t.ReplyError(event.call, MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                                       absl::StrCat(name, " doesn't exist"), name));
  } else if (IsDamaged(source, step)) {
    t.ReplyError(event.call, MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                                       absl::StrCat(name, " is damaged"), name));
  } else {
    return step;
  }
  return std::nullopt;
}

// What of `spec` doesn't fit a start from step `step` of `source`.
std::vector<v1::FieldViolation> ForkViolations(const v1::TrainingSpec& spec,
                                               const v1::TrainingSpec& source, int64_t step) {
  std::vector<v1::FieldViolation> violations;
  if (spec.model().SerializeAsString() != source.model().SerializeAsString()) {
    violations.push_back(Violation(
        "model", "expected the model of the forked job: its checkpoint holds another network"));
  }
  if (spec.train().steps() <= step) {
    violations.push_back(Violation(
        "train.steps", absl::StrCat("expected more than the ", step,
                                    " steps of the checkpoint, got ", spec.train().steps())));
  }
  return violations;
}

}  // namespace

void OnSubmitJob(Transition& t, const SubmitJob& event) {
  if (!AnswerKnownRequest(t, event.call, event.meta)) {
    AddJob(t, event.call, event.spec, event.meta, {});
  }
}

void OnForkJob(Transition& t, const ForkJob& event) {
  if (AnswerKnownRequest(t, event.call, event.meta)) return;
  const JobEntry* source = FindJobOrReply(t, event.call, event.job_id);
  if (source == nullptr) return;
  const std::optional<int64_t> step = ForkStep(t, event, *source);
  if (!step) return;
  const v1::TrainingSpec spec = event.spec.value_or(source->job().spec());
  auto violations = ForkViolations(spec, source->job().spec(), *step);
  if (!violations.empty()) {
    t.ReplyError(event.call, MakeViolations(v1::INVALID_SPEC, std::move(violations)));
    return;
  }
  AddJob(t, event.call, spec, event.meta, {event.job_id, *step});
}

void OnRetryJob(Transition& t, const RetryJob& event) {
  if (AnswerKnownRequest(t, event.call, event.meta)) return;
  const JobEntry* ended = FindJobOrReply(t, event.call, event.job_id);
  if (ended == nullptr) return;
  const v1::Job& job = ended->job();
  if (job.state() == v1::SUCCEEDED) return ReplyEnded(t, event.call, *ended);
  if (!HasEnded(job.state())) {
    t.ReplyError(event.call,
                 MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_NOT_ENDED,
                           absl::StrCat(job.name(), " is ", v1::JobState_Name(job.state()),
                                        "; only an ended job can be tried again"),
                           job.name()));
    return;
  }
  if (RestorableStep(*ended) >= job.spec().train().steps()) {
    t.ReplyError(event.call,
                 MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_ALREADY_ENDED,
                           absl::StrCat(job.name(), " has a checkpoint of its last step ",
                                        job.spec().train().steps(), ": nothing is left to do"),
                           job.name()));
    return;
  }
  JobMeta meta = event.meta;
  meta.priority = job.priority();
  meta.labels = {job.labels().begin(), job.labels().end()};
  // AddJob may move the jobs.
  const v1::TrainingSpec spec = job.spec();
  AddJob(t, event.call, spec, meta, RestorePointOf(*ended));
}

}  // namespace diffmoe::server
