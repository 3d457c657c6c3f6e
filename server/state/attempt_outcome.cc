#include <algorithm>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/state/time_util.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

FailureCause ErrorCause(int status_code) {
  switch (static_cast<absl::StatusCode>(status_code)) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
      return FailureCause::kRefused;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
      return FailureCause::kPeer;
    default:
      return FailureCause::kError;
  }
}

// A fault that will come again when nothing changes. A kill from outside or a lost machine isn't.
bool IsRepeatable(const Failure& failure) {
  if (failure.cause == FailureCause::kError) return true;
  return failure.cause == FailureCause::kCrash && failure.signal != SIGKILL &&
         failure.signal != SIGTERM && failure.signal != SIGINT;
}

void CloseAttempt(Transition& t, JobEntry& job, const std::string& reason) {
  v1::Job& shown = job.job();
  if (shown.attempts_size() > 0) {
    v1::Attempt* attempt = shown.mutable_attempts(shown.attempts_size() - 1);
    SetTimestamp(attempt->mutable_end_time(), t.now.unix_ms);
    attempt->set_end_reason(reason);
  }
  job.attempt = {};
  t.changed_jobs.insert(shown.id());
  t.schedule = true;
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

void Requeue(Transition& t, JobEntry& job, const Failure& failure) {
  v1::Job& shown = job.job();
  const int64_t restored_step =
      shown.attempts_size() > 0 ? shown.attempts(shown.attempts_size() - 1).restored_step() : 0;
  const int64_t restore_step = RestorableStep(job);
  const int in_a_row = restore_step > restored_step ? 1 : job.record.failures_in_a_row() + 1;
  job.record.set_failures_in_a_row(in_a_row);
  int64_t backoff_ms = 0;
  if (in_a_row > 1 && !Planted(Fault::kBackoffLost)) {
    backoff_ms = std::min(int64_t{1000} << std::min(in_a_row - 2, 20), t.options().max_backoff_ms);
  }
  job.not_before_ms = backoff_ms > 0 ? t.now.monotonic_ms + backoff_ms : 0;
  job.record.set_not_before_ms(backoff_ms > 0 ? t.now.unix_ms + backoff_ms : 0);
  shown.set_restarts(shown.restarts() + 1);
  shown.set_state(v1::QUEUED);
  shown.set_reason(absl::StrCat(
      "restarts from ", restore_step > 0 ? absl::StrCat("step ", restore_step) : "the beginning",
      backoff_ms > 0 ? absl::StrCat(" in ", (backoff_ms + 999) / 1000, " s") : "", ": ",
      failure.text));
  CloseAttempt(t, job, failure.text);
  AddJobEvent(t, job, shown.reason());
  t.Emit(RestartCounted{failure.cause, failure.signal});
}

// A checkpoint that could not be restored isn't tried again.
bool MarkDamagedCheckpoint(Transition& t, JobEntry& job, const Failure& failure) {
  if (failure.status_code != static_cast<int>(absl::StatusCode::kDataLoss)) return false;
  const v1::Job& shown = job.job();
  if (shown.attempts_size() == 0) return false;
  const v1::Attempt& attempt = shown.attempts(shown.attempts_size() - 1);
  if (attempt.restored_step() == 0 || attempt.last_step() > attempt.restored_step()) return false;
  OnCheckpointDamaged(t, {shown.id(), attempt.restored_step(), failure.text});
  return true;
}

void ConcludeFailure(Transition& t, JobEntry& job, const Failure& failure) {
  internal::v1::JobRecord& record = job.record;
  if (failure.cause == FailureCause::kRefused) {
    CloseAttempt(t, job, failure.text);
    EndJob(t, job, v1::FAILED, failure.text);
    return;
  }
  if (MarkDamagedCheckpoint(t, job, failure)) {
    Requeue(t, job, failure);
    return;
  }
  const bool repeated = IsRepeatable(failure) && record.last_failure() == failure.text &&
                        record.last_failure_step() == failure.step;
  record.set_last_failure(failure.text);
  record.set_last_failure_step(failure.step);
  if (IsCounted(failure.cause)) record.set_failures(record.failures() + 1);
  const int max_restarts = job.job().spec().parallel().max_restarts();
  if (repeated) {
    CloseAttempt(t, job, failure.text);
    EndJob(t, job, v1::FAILED,
           absl::StrCat("the same error came twice at step ", failure.step, ": ", failure.text));
  } else if (record.failures() > max_restarts) {
    CloseAttempt(t, job, failure.text);
    EndJob(t, job, v1::FAILED,
           absl::StrCat("failed ", record.failures(), " times, max_restarts is ", max_restarts,
                        ": ", failure.text));
  } else {
    Requeue(t, job, failure);
  }
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
      failure.cause = FailureCause::kCrash;
      failure.signal = exited.signal();
      failure.text = absl::StrCat(who, " was killed by signal ", exited.signal());
      break;
    case worker::v1::EXIT_CAUSE_SPAWN:
      failure.cause = FailureCause::kSpawn;
      failure.text = absl::StrCat(who, " could not be started: ", exited.message());
      break;
    case worker::v1::EXIT_CAUSE_STOPPED:
      failure.cause = FailureCause::kWorkerStopped;
      failure.text = who + " was stopped by its worker";
      break;
    default:
      failure.cause = FailureCause::kCrash;
      failure.text =
          absl::StrCat(who, " exited with code ", exited.exit_code(), " without a report");
  }
  return failure;
}

bool IsCounted(FailureCause cause) {
  return cause != FailureCause::kWorkerLost && cause != FailureCause::kWorkerStopped &&
         cause != FailureCause::kCoordinatorRestart;
}

void ConcludeAttempt(Transition& t, JobEntry& job) {
  if (job.job().state() == v1::CANCELLING) {
    CloseAttempt(t, job, "cancelled");
    EndJob(t, job, v1::CANCELLED, absl::StrCat("cancelled at step ", job.job().progress().step()));
    return;
  }
  if (!job.attempt.failure) {
    const int64_t done_step = DoneStep(job);
    if (job.job().latest_checkpoint_step() >= done_step && done_step > 0) {
      CloseAttempt(t, job, "finished");
      EndJob(t, job, v1::SUCCEEDED, absl::StrCat("finished at step ", done_step));
      return;
    }
    job.attempt.failure = Failure{FailureCause::kError,
                                  absl::StrCat("all ranks ended at step ", done_step,
                                               " but no checkpoint of that step is committed"),
                                  done_step, 0, 0};
  } else if (HasFinalCheckpoint(job) && job.attempt.failure->cause != FailureCause::kRefused) {
    CloseAttempt(t, job, job.attempt.failure->text);
    EndJob(t, job, v1::SUCCEEDED, "finished; the last checkpoint is committed");
    return;
  }
  const Failure failure = *job.attempt.failure;
  ConcludeFailure(t, job, failure);
}

}  // namespace diffmoe::server
