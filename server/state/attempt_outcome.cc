#include <algorithm>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/state/reasons.h"
#include "server/state/retry_policy.h"
#include "server/state/time_util.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

// What a rank means by the code of the error that it reports.
v1::EndCause ErrorCause(int status_code) {
  switch (static_cast<absl::StatusCode>(status_code)) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
      return v1::END_CAUSE_BAD_INPUT;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
      return v1::END_CAUSE_PEER_LOST;
    case absl::StatusCode::kResourceExhausted:
      return v1::END_CAUSE_OUT_OF_MEMORY;
    case absl::StatusCode::kOutOfRange:
      return v1::END_CAUSE_NOT_A_NUMBER;
    default:
      return v1::END_CAUSE_ERROR;
  }
}

std::string WithDetail(const std::string& what, const std::string& detail) {
  return detail.empty() ? what : absl::StrCat(what, ": ", detail);
}

// What is the same when the same failure comes again: a detail may name files of one attempt.
std::string Identity(const Failure& failure) {
  if (failure.cause == v1::END_CAUSE_SIGNAL) return absl::StrCat("signal ", failure.signal);
  if (failure.cause == v1::END_CAUSE_EXIT_CODE)
    return failure.text.substr(0, failure.text.find(':'));
  return failure.text;
}

// A fault that will come again when nothing changes. A kill from outside or a lost machine isn't.
bool IsRepeatable(const Failure& failure) {
  switch (failure.cause) {
    case v1::END_CAUSE_ERROR:
    case v1::END_CAUSE_NOT_A_NUMBER:
    case v1::END_CAUSE_EXIT_CODE:
      return true;
    case v1::END_CAUSE_SIGNAL:
      return failure.signal != SIGKILL && failure.signal != SIGTERM && failure.signal != SIGINT;
    default:
      return false;
  }
}

void CloseAttempt(Transition& t, JobEntry& job, v1::EndCause cause, const std::string& reason) {
  v1::Job& shown = job.job();
  if (shown.attempts_size() > 0) {
    v1::Attempt* attempt = shown.mutable_attempts(shown.attempts_size() - 1);
    SetTimestamp(attempt->mutable_end_time(), t.now.unix_ms);
    attempt->set_end_reason(reason);
    attempt->set_end_cause(cause);
  }
  job.attempt = {};
  t.changed_jobs.insert(shown.id());
  t.state.schedule_due = true;
}

bool AllDone(const AttemptEntry& attempt) {
  return std::all_of(attempt.ranks.begin(), attempt.ranks.end(),
                     [](const RankEntry& rank) { return rank.phase == RankPhase::kDone; });
}

// The step up to which rank 0 says the work is done; every rank says the same.
int64_t DoneStep(const JobEntry& job) {
  int64_t step = 0;
  for (const RankEntry& rank : job.attempt.ranks) step = std::max(step, rank.done_step);
  return step > 0 ? step : job.job().progress().step();
}

// The final state is there although the attempt didn't say so (its last words were lost with a
// coordinator).
bool HasFinalCheckpoint(const JobEntry& job) {
  return RestorableStep(job) >= job.job().spec().train().steps();
}

std::string FromWhere(const JobEntry& job) {
  const RestorePoint restore = RestorePointOf(job);
  return restore.step > 0 ? absl::StrCat("step ", restore.step) : "the beginning";
}

// Back into the queue: at once, or after a pause. A job that shall be paused is PAUSED instead.
void WaitAgain(Transition& t, JobEntry& job, v1::ReasonCode code, const std::string& why,
               int64_t pause_ms) {
  if (job.record.pause_requested()) {
    SetJobState(t.state, job, v1::PAUSED);
    SetReason(t, job, v1::REASON_PAUSED, absl::StrCat("paused; goes on from ", FromWhere(job)));
    AddJobEvent(t, job, job.job().reason());
    return;
  }
  job.record.set_not_before_ms(pause_ms > 0 ? t.now.unix_ms + pause_ms : 0);
  if (pause_ms > 0) {
    BackOff(t.state, job, t.now.monotonic_ms + pause_ms);
  } else {
    SetJobState(t.state, job, v1::QUEUED);
  }
  SetReason(t, job, code,
            absl::StrCat("restarts from ", FromWhere(job),
                         pause_ms > 0 ? absl::StrCat(" in ", (pause_ms + 999) / 1000, " s") : "",
                         ": ", why));
  AddJobEvent(t, job, job.job().reason());
}

void Requeue(Transition& t, JobEntry& job, const Failure& failure) {
  v1::Job& shown = job.job();
  const int64_t restored_step =
      shown.attempts_size() > 0 ? shown.attempts(shown.attempts_size() - 1).restored_step() : 0;
  const bool new_checkpoint = RestorePointOf(job).step > restored_step;
  job.record.set_failures_in_a_row(new_checkpoint ? 1 : job.record.failures_in_a_row() + 1);
  const int64_t pause_ms = Planted(Fault::kBackoffLost)
                               ? 0
                               : PauseMs(PolicyOf(failure.cause), job.record.failures_in_a_row(),
                                         t.options().max_backoff_ms);
  shown.set_restarts(shown.restarts() + 1);
  CloseAttempt(t, job, failure.cause, failure.text);
  WaitAgain(t, job, v1::REASON_WAITS_FOR_RESTART, failure.text, pause_ms);
  t.Emit(RestartCounted{failure.cause});
}

void Fail(Transition& t, JobEntry& job, const Failure& failure, v1::ReasonCode code,
          const std::string& reason) {
  CloseAttempt(t, job, failure.cause, failure.text);
  EndJob(t, job, v1::FAILED, code, reason);
}

// A checkpoint that could not be restored isn't tried again. True when that was it.
bool ConcludeDamagedCheckpoint(Transition& t, JobEntry& job, const Failure& failure) {
  if (failure.status_code != static_cast<int>(absl::StatusCode::kDataLoss)) return false;
  const v1::Job& shown = job.job();
  if (shown.attempts_size() == 0) return false;
  const v1::Attempt& attempt = shown.attempts(shown.attempts_size() - 1);
  if (attempt.restored_step() == 0 || attempt.last_step() > attempt.restored_step()) return false;
  Failure damaged = failure;
  damaged.cause = v1::END_CAUSE_CORRUPT_CHECKPOINT;
  // A fork's first attempts start from another job's checkpoint.
  const bool own = job.checkpoints.contains(attempt.restored_step());
  const std::string owner = own ? shown.id() : job.record.source_job();
  OnCheckpointDamaged(t, {owner, attempt.restored_step(), failure.text});
  if (own) {
    Requeue(t, job, damaged);
  } else {
    Fail(t, job, damaged, v1::REASON_NOT_RETRYABLE,
         absl::StrCat(shown.forked_from(), ", from which it starts, is damaged: ", failure.text));
  }
  return true;
}

// Counts the failure. Empty: the job may try again; else why it may not.
std::string BudgetUsedUp(JobEntry& job, v1::EndCause cause) {
  const RetryPolicy policy = PolicyOf(cause);
  if (!policy.counted) return "";
  const int failures = job.job().failures() + 1;
  int& of_cause = (*job.record.mutable_failures_by_cause())[cause];
  ++of_cause;
  job.job().set_failures(failures);
  const int max_restarts = job.job().spec().parallel().max_restarts();
  if (failures > max_restarts) {
    return absl::StrCat("failed ", failures, failures == 1 ? " time" : " times",
                        ", max_restarts is ", max_restarts);
  }
  if (of_cause > policy.budget) {
    return absl::StrCat("failed ", of_cause, of_cause == 1 ? " time" : " times", " because ",
                        CauseInWords(cause), "; it is tried again at most ", policy.budget,
                        policy.budget == 1 ? " time" : " times");
  }
  return "";
}

void ConcludeFailure(Transition& t, JobEntry& job, const Failure& failure) {
  internal::v1::JobRecord& record = job.record;
  if (failure.cause == v1::END_CAUSE_BAD_INPUT) {
    Fail(t, job, failure, v1::REASON_NOT_RETRYABLE, failure.text);
    return;
  }
  if (ConcludeDamagedCheckpoint(t, job, failure)) return;
  const bool repeated = IsRepeatable(failure) && record.last_failure() == Identity(failure) &&
                        record.last_failure_step() == failure.step;
  record.set_last_failure(Identity(failure));
  record.set_last_failure_step(failure.step);
  const std::string used_up = BudgetUsedUp(job, failure.cause);
  if (repeated) {
    Fail(t, job, failure, v1::REASON_SAME_ERROR_TWICE,
         absl::StrCat("the same error came twice at step ", failure.step, ": ", failure.text));
  } else if (!used_up.empty()) {
    Fail(t, job, failure, v1::REASON_RETRIES_USED_UP, absl::StrCat(used_up, ": ", failure.text));
  } else {
    Requeue(t, job, failure);
  }
}

// The ranks have ended because they were asked to, without a fault.
void ConcludeStop(Transition& t, JobEntry& job, StopKind stop) {
  const std::string why = job.attempt.stop_reason;
  const v1::EndCause cause = stop == StopKind::kPreempt  ? v1::END_CAUSE_PREEMPTED
                             : stop == StopKind::kResize ? v1::END_CAUSE_RESIZED
                                                         : v1::END_CAUSE_USER;
  CloseAttempt(t, job, cause, why);
  WaitAgain(t, job,
            stop == StopKind::kPreempt  ? v1::REASON_PREEMPTED
            : stop == StopKind::kResize ? v1::REASON_RESIZED
                                        : v1::REASON_SUBMITTED,
            why, 0);
}

}  // namespace

Failure ExitFailure(const worker::v1::RankExited& exited, const std::string& worker_id) {
  Failure failure;
  failure.step = exited.step();
  const std::string who = absl::StrCat("rank ", exited.rank(), " on worker ", worker_id);
  switch (exited.cause()) {
    case worker::v1::EXIT_CAUSE_ERROR:
      failure.cause = ErrorCause(exited.status_code());
      failure.status_code = exited.status_code();
      failure.text = absl::StrCat(
          "rank ", exited.rank(), ": ",
          absl::StatusCodeToString(static_cast<absl::StatusCode>(exited.status_code())), ": ",
          exited.message());
      break;
    case worker::v1::EXIT_CAUSE_SIGNAL:
      failure.cause = v1::END_CAUSE_SIGNAL;
      failure.signal = exited.signal();
      failure.text = WithDetail(absl::StrCat(who, " was killed by signal ", exited.signal()),
                                exited.message());
      break;
    case worker::v1::EXIT_CAUSE_HANG:
      failure.cause = v1::END_CAUSE_HANG;
      failure.text = absl::StrCat(who, " hung: ", exited.message());
      break;
    case worker::v1::EXIT_CAUSE_OUT_OF_MEMORY:
      failure.cause = v1::END_CAUSE_OUT_OF_MEMORY;
      failure.text = absl::StrCat(who, " ran out of memory: ", exited.message());
      break;
    case worker::v1::EXIT_CAUSE_SPAWN:
      failure.cause = v1::END_CAUSE_SPAWN;
      failure.text = absl::StrCat(who, " could not be started: ", exited.message());
      break;
    case worker::v1::EXIT_CAUSE_STOPPED:
      failure.cause = v1::END_CAUSE_WORKER_STOPPED;
      failure.text = who + " was stopped by its worker";
      break;
    default:
      failure.cause = v1::END_CAUSE_EXIT_CODE;
      failure.text = WithDetail(
          absl::StrCat(who, " exited with code ", exited.exit_code(), " without a report"),
          exited.message());
  }
  return failure;
}

void ConcludeAttempt(Transition& t, JobEntry& job) {
  if (job.job().state() == v1::CANCELLING) {
    CloseAttempt(t, job, v1::END_CAUSE_USER, "cancelled");
    EndJob(t, job, v1::CANCELLED, v1::REASON_CANCELLED,
           absl::StrCat("cancelled at step ", job.job().progress().step()));
    return;
  }
  const bool refused = job.attempt.failure && job.attempt.failure->cause == v1::END_CAUSE_BAD_INPUT;
  const int64_t done_step = DoneStep(job);
  const bool done = AllDone(job.attempt) && done_step > 0 && RestorableStep(job) >= done_step;
  if (done || (HasFinalCheckpoint(job) && !refused)) {
    const std::string why = done ? absl::StrCat("finished at step ", done_step)
                                 : "finished; the last checkpoint is committed";
    CloseAttempt(t, job, v1::END_CAUSE_FINISHED, why);
    EndJob(t, job, v1::SUCCEEDED, v1::REASON_FINISHED, why);
    return;
  }
  if (!job.attempt.failure && job.attempt.stop) {
    ConcludeStop(t, job, *job.attempt.stop);
    return;
  }
  if (!job.attempt.failure) {
    job.attempt.failure = Failure{v1::END_CAUSE_ERROR,
                                  absl::StrCat("all ranks ended at step ", done_step,
                                               " but no checkpoint of that step is committed"),
                                  done_step, 0, 0};
  }
  const Failure failure = *job.attempt.failure;
  ConcludeFailure(t, job, failure);
}

}  // namespace diffmoe::server
