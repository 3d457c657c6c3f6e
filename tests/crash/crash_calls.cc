// What the crash test asks of the cluster while it waits for a process to die.
#include "tests/crash/crash_calls.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "tests/crash/crash_run.h"

namespace diffmoe::test {
namespace {

constexpr absl::Duration kCallLimit = absl::Seconds(30);

v1::TrainingSpec TinySpec(int ranks) {
  v1::TrainingSpec spec;
  spec.set_name("crash");
  v1::ModelSpec* model = spec.mutable_model();
  model->set_image_size(32);
  model->set_channels(1);
  model->set_patch_size(8);
  model->set_width(16);
  model->set_depth(2);
  model->set_heads(2);
  model->set_classes(10);
  model->set_experts(2);
  spec.mutable_data()->set_format(v1::DATA_FORMAT_IDX);
  spec.mutable_data()->set_path("/usr/share/datasets/fashion-mnist");
  spec.mutable_data()->set_resize(v1::RESIZE_PAD);
  spec.mutable_train()->set_steps(60);
  spec.mutable_train()->set_global_batch(8);
  spec.mutable_train()->set_unit_samples(4);
  spec.mutable_train()->set_seed(1);
  spec.mutable_parallel()->set_ranks(ranks);
  spec.mutable_checkpoint()->set_every_steps(5);
  spec.mutable_checkpoint()->set_keep(2);
  return spec;
}

std::string JobName(const std::string& job_id) { return "jobs/" + job_id; }

std::string CheckpointName(const std::string& job_id, int64_t step) {
  return absl::StrCat("jobs/", job_id, "/checkpoints/", step);
}

}  // namespace

std::unique_ptr<grpc::ClientContext> CallContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  return context;
}

absl::Status CallStatus(const grpc::Status& status, const std::string& call) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat(call, ": ", status.error_message());
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
      status.error_code() == grpc::StatusCode::CANCELLED) {
    return absl::UnavailableError(message);
  }
  return absl::InternalError(
      absl::StrCat(message, " (code ", static_cast<int>(status.error_code()), ")"));
}

bool Refused(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::FAILED_PRECONDITION ||
         status.error_code() == grpc::StatusCode::NOT_FOUND ||
         status.error_code() == grpc::StatusCode::INVALID_ARGUMENT;
}

absl::Status CrashRun::Submit() {
  const std::string request_id = absl::StrCat("request-", ++requests_);
  unanswered_.insert(request_id);
  return SubmitAgain(request_id);
}

absl::Status CrashRun::SubmitAgain(const std::string& request_id) {
  v1::Job job;
  grpc::Status status;
  if (const auto fork = forks_.find(request_id); fork != forks_.end()) {
    v1::ForkJobRequest request;
    request.set_checkpoint(fork->second);
    request.set_request_id(request_id);
    status = cluster_.jobs().ForkJob(CallContext().get(), request, &job);
  } else {
    v1::SubmitJobRequest request;
    // The same request id has the same body.
    *request.mutable_spec() = TinySpec(absl::EndsWith(request_id, "0") ? 2 : 1);
    request.set_request_id(request_id);
    status = cluster_.jobs().SubmitJob(CallContext().get(), request, &job);
  }
  if (Refused(status) && unanswered_.erase(request_id) > 0) return absl::OkStatus();
  RETURN_IF_ERROR(CallStatus(status, absl::StrCat("SubmitJob or ForkJob ", request_id)));
  unanswered_.erase(request_id);
  return expected_.Submitted(request_id, job.id());
}

absl::Status CrashRun::Change(const std::string& job_id) {
  switch (Random(9)) {
    case 0:
      return Cancel(job_id);
    case 1:
      return Fork(job_id);
    case 2:
      return Pause(job_id);
    case 3:
      return Resume(job_id);
    case 4:
      return Pin(job_id);
    case 5:
    case 6:
    case 7:
      return Delete(job_id);
    default:
      return Label(job_id);
  }
}

absl::Status CrashRun::Fork(const std::string& job_id) {
  const auto [step, epoch] = expected_.OldestCheckpoint(job_id);
  if (step == 0) return absl::OkStatus();
  const std::string request_id = absl::StrCat("request-", ++requests_);
  forks_[request_id] = CheckpointName(job_id, step);
  unanswered_.insert(request_id);
  return SubmitAgain(request_id);
}

absl::Status CrashRun::Cancel(const std::string& job_id) {
  v1::CancelJobRequest request;
  request.set_name(JobName(job_id));
  v1::Job job;
  const grpc::Status status = cluster_.jobs().CancelJob(CallContext().get(), request, &job);
  if (Refused(status)) return absl::OkStatus();
  RETURN_IF_ERROR(CallStatus(status, "CancelJob " + job_id));
  expected_.Cancelled(job_id);
  return absl::OkStatus();
}

absl::Status CrashRun::Pause(const std::string& job_id) {
  v1::PauseJobRequest request;
  request.set_name(JobName(job_id));
  v1::Job job;
  const grpc::Status status = cluster_.jobs().PauseJob(CallContext().get(), request, &job);
  if (Refused(status)) return absl::OkStatus();
  RETURN_IF_ERROR(CallStatus(status, "PauseJob " + job_id));
  expected_.Paused(job_id);
  return absl::OkStatus();
}

absl::Status CrashRun::Resume(const std::string& job_id) {
  v1::ResumeJobRequest request;
  request.set_name(JobName(job_id));
  v1::Job job;
  expected_.Resumed(job_id);  // also when the answer is lost: it may have taken effect
  const grpc::Status status = cluster_.jobs().ResumeJob(CallContext().get(), request, &job);
  if (Refused(status)) return absl::OkStatus();
  return CallStatus(status, "ResumeJob " + job_id);
}

absl::Status CrashRun::Label(const std::string& job_id) {
  const int64_t number = ++labels_;
  v1::UpdateJobRequest request;
  request.set_name(JobName(job_id));
  (*request.mutable_set_labels())["number"] = absl::StrCat(number);
  v1::Job job;
  expected_.Labelling(job_id, number);
  RETURN_IF_ERROR(CallStatus(cluster_.jobs().UpdateJob(CallContext().get(), request, &job),
                             "UpdateJob " + job_id));
  expected_.Labelled(job_id, number);
  return absl::OkStatus();
}

absl::Status CrashRun::Pin(const std::string& job_id) {
  const auto [step, epoch] = expected_.OldestCheckpoint(job_id);
  if (step == 0) return absl::OkStatus();
  v1::UpdateCheckpointRequest request;
  request.set_name(CheckpointName(job_id, step));
  request.set_pinned(true);
  v1::Checkpoint checkpoint;
  const grpc::Status status =
      cluster_.checkpoints().UpdateCheckpoint(CallContext().get(), request, &checkpoint);
  if (Refused(status)) return absl::OkStatus();
  RETURN_IF_ERROR(CallStatus(status, "UpdateCheckpoint " + request.name()));
  expected_.Pinned(job_id, step);
  return absl::OkStatus();
}

absl::Status CrashRun::Delete(const std::string& job_id) {
  const auto [step, epoch] = expected_.SpareCheckpoint(job_id);
  if (step == 0) return absl::OkStatus();
  v1::DeleteCheckpointRequest request;
  request.set_name(CheckpointName(job_id, step));
  v1::DeleteCheckpointResponse response;
  const grpc::Status status =
      cluster_.checkpoints().DeleteCheckpoint(CallContext().get(), request, &response);
  if (Refused(status)) return absl::OkStatus();
  expected_.Deleting(job_id, step);  // also when the answer is lost
  RETURN_IF_ERROR(CallStatus(status, "DeleteCheckpoint " + request.name()));
  expected_.Deleted(job_id, step, epoch);
  return absl::OkStatus();
}

}  // namespace diffmoe::test
