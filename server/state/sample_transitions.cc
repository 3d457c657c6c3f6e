#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/sampling/sample_request.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

void Refuse(Transition& t, uint64_t call, absl::Status status) {
  t.Emit(SampleEnd{call, std::move(status)});
  t.Emit(SampleCounted{SampleOutcome::kRefused, 0});
}

// The checkpoint that the request means, or why there is none.
absl::StatusOr<int64_t> ResolveStep(const JobEntry& job, const std::optional<int64_t>& wanted) {
  if (!wanted) {
    const int64_t newest = RestorableStep(job);
    if (newest > 0) return newest;
    return MakeRetryableError(
        absl::StatusCode::kFailedPrecondition, v1::NO_CHECKPOINT_YET,
        absl::StrCat(job.job().name(), " has no checkpoint yet; it saves one every ",
                     job.job().spec().checkpoint().every_steps(), " steps"),
        5000);
  }
  const std::string name = CheckpointName(job.job().id(), *wanted);
  if (!job.checkpoints.contains(*wanted)) {
    return MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                     absl::StrCat(name, " doesn't exist"), name);
  }
  if (IsDamaged(job, *wanted)) {
    return MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                     absl::StrCat(name, " is damaged"), name);
  }
  return *wanted;
}

void CancelOnSampler(Transition& t, const SampleEntry& sample) {
  const auto it = t.state.samplers.find(sample.sampler_id);
  if (it == t.state.samplers.end()) return;
  SamplerEntry& sampler = it->second;
  worker::v1::CoordinatorMessage message;
  worker::v1::CancelSample* cancel = message.mutable_cancel_sample();
  cancel->set_request_id(sample.request_id);
  cancel->mutable_group()->set_id(sampler.id);
  cancel->mutable_group()->set_epoch(sampler.epoch);
  Send(t, sampler.worker_id, std::move(message));
  SamplerIdle(t, sampler);
}

void CompleteReceipt(const SampleEntry& sample, v1::Receipt* receipt) {
  receipt->set_checkpoint(CheckpointName(sample.job_id, sample.step));
  receipt->set_seed(sample.request.seed());
  receipt->set_steps(sample.request.steps());
  receipt->set_guidance(sample.request.guidance());
  receipt->set_sampler(sample.request.sampler());
  if (sample.request.has_eta()) receipt->set_eta(sample.request.eta());
  if (sample.request.has_guidance_interval()) {
    *receipt->mutable_guidance_interval() = sample.request.guidance_interval();
  }
  *receipt->mutable_classes() = sample.request.classes();
  receipt->set_count(sample.request.count());
}

absl::Status SamplerError(const SampleEntry& sample, const worker::v1::SampleError& error) {
  const auto code = static_cast<absl::StatusCode>(error.status_code());
  const std::string name = CheckpointName(sample.job_id, sample.step);
  switch (code) {
    case absl::StatusCode::kDataLoss:
      return MakeError(code, v1::CORRUPT_CHECKPOINT, error.message(), name);
    case absl::StatusCode::kNotFound:
      return MakeError(code, v1::CHECKPOINT_NOT_FOUND, error.message(), name);
    case absl::StatusCode::kInvalidArgument:
      return MakeError(code, v1::INVALID_REQUEST, error.message(), name);
    case absl::StatusCode::kUnavailable:
      return MakeRetryableError(code, v1::SAMPLER_LOST, error.message(), 5000);
    case absl::StatusCode::kOk:
      return absl::InternalError(error.message());
    default:
      return absl::Status(code, error.message());
  }
}

// The sampler isn't connected to its worker yet: it is asked again a little later.
bool RetryRefused(Transition& t, SampleEntry& sample, SamplerEntry& sampler, int status_code) {
  if (status_code != static_cast<int>(absl::StatusCode::kUnavailable) || sample.waited)
    return false;
  if (++sample.refusals > t.options().max_sampler_refusals) return false;
  SamplerIdle(t, sampler);
  sampler.not_before_ms = t.now.monotonic_ms + t.options().sampler_retry_ms;
  sample.sampler_id.clear();
  t.state.sample_queue.push_front(sample.call);
  return true;
}

// Relays one response. True when it was the last one.
bool Relay(Transition& t, SampleEntry& sample, v1::SampleResponse response) {
  if (!sample.waited) {
    sample.waited = true;
    t.Emit(SampleWaitMeasured{t.now.monotonic_ms - sample.submitted_ms});
  }
  if (response.has_started()) {
    response.mutable_started()->set_checkpoint(CheckpointName(sample.job_id, sample.step));
  }
  if (response.has_image()) {
    // A second sampler makes the same images again.
    if (response.image().index() < sample.next_image) return false;
    sample.next_image = response.image().index() + 1;
  }
  const bool last = response.has_finished();
  if (last) CompleteReceipt(sample, response.mutable_finished()->mutable_receipt());
  t.Emit(SampleEvent{sample.call, std::move(response)});
  return last;
}

}  // namespace

void OnSubmitSample(Transition& t, const SubmitSample& event) {
  const JobEntry* job = FindJob(t, event.job_id);
  if (job == nullptr) {
    Refuse(t, event.call,
           MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                     absl::StrCat(JobName(event.job_id), " doesn't exist"), JobName(event.job_id)));
    return;
  }
  auto violations = ValidateSampleRequest(event.request, job->job().spec());
  if (!violations.empty()) {
    Refuse(t, event.call, MakeViolations(v1::INVALID_REQUEST, std::move(violations)));
    return;
  }
  const absl::StatusOr<int64_t> step = ResolveStep(*job, event.step);
  if (!step.ok()) {
    Refuse(t, event.call, step.status());
    return;
  }
  if (static_cast<int>(t.state.sample_queue.size()) >= t.options().max_sample_requests) {
    Refuse(t, event.call,
           MakeRetryableError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                              absl::StrCat(t.state.sample_queue.size(), " requests wait already"),
                              5000));
    return;
  }
  SampleEntry& sample = t.state.samples[event.call];
  sample.call = event.call;
  sample.request_id = absl::StrCat("sample-", t.state.next_sample_number++);
  sample.job_id = event.job_id;
  sample.step = *step;
  sample.spec = job->job().spec();
  sample.request = event.request;
  sample.request.set_checkpoint(CheckpointName(event.job_id, *step));
  CompleteSampleRequest(sample.spec, &sample.request);
  if (event.deadline_in_ms > 0) sample.deadline_ms = t.now.monotonic_ms + event.deadline_in_ms;
  sample.submitted_ms = t.now.monotonic_ms;
  t.state.sample_queue.push_back(event.call);
  t.state.schedule_due = true;
}

void DispatchSample(Transition& t, uint64_t call, SamplerEntry& sampler) {
  SampleEntry& sample = t.state.samples.at(call);
  sample.sampler_id = sampler.id;
  sampler.call = call;
  sampler.not_before_ms = 0;
  sampler.job_id = sample.job_id;
  sampler.step = sample.step;
  worker::v1::CoordinatorMessage message;
  worker::v1::SampleTask* task = message.mutable_sample_task();
  task->set_request_id(sample.request_id);
  task->mutable_group()->set_id(sampler.id);
  task->mutable_group()->set_epoch(sampler.epoch);
  task->set_job_id(sample.job_id);
  task->set_step(sample.step);
  *task->mutable_spec() = sample.spec;
  *task->mutable_request() = sample.request;
  if (sample.deadline_ms) {
    task->set_deadline_ms(std::max<int64_t>(1, *sample.deadline_ms - t.now.monotonic_ms));
  }
  Send(t, sampler.worker_id, std::move(message));
}

void OnCancelSample(Transition& t, const CancelSample& event) {
  const auto it = t.state.samples.find(event.call);
  if (it == t.state.samples.end()) return;
  CancelOnSampler(t, it->second);
  EndSample(t, event.call, absl::CancelledError("cancelled by the client"),
            SampleOutcome::kCancelled);
}

void OnSampleUpdated(Transition& t, const SampleUpdated& event) {
  const worker::v1::SampleUpdate& update = event.update;
  const auto found = t.state.samplers.find(update.group().id());
  if (found == t.state.samplers.end() || found->second.epoch != update.group().epoch()) return;
  SamplerEntry& sampler = found->second;
  if (!sampler.call) return;
  const uint64_t call = *sampler.call;
  SampleEntry& sample = t.state.samples.at(call);
  if (sample.request_id != update.request_id()) return;  // of a request that was cancelled
  if (update.has_error()) {
    if (RetryRefused(t, sample, sampler, update.error().status_code())) return;
    const absl::Status status = SamplerError(sample, update.error());
    if (absl::IsDataLoss(status)) {
      OnCheckpointDamaged(t, {sample.job_id, sample.step, update.error().message()});
    }
    SamplerIdle(t, sampler);
    EndSample(t, call, status,
              absl::IsDeadlineExceeded(status) ? SampleOutcome::kDeadline : SampleOutcome::kFailed);
  } else if (Relay(t, sample, update.response())) {
    SamplerIdle(t, sampler);
    EndSample(t, call, absl::OkStatus(), SampleOutcome::kOk);
  }
}

void EndSample(Transition& t, uint64_t call, absl::Status status, SampleOutcome outcome) {
  const auto it = t.state.samples.find(call);
  const int64_t latency_ms = t.now.monotonic_ms - it->second.submitted_ms;
  const std::string job_id = it->second.job_id;
  t.Emit(SampleEnd{call, std::move(status)});
  t.Emit(SampleCounted{outcome, latency_ms});
  t.state.samples.erase(it);
  std::erase(t.state.sample_queue, call);
  if (JobEntry* job = FindJob(t, job_id)) ApplyRetention(t, *job);
  t.state.schedule_due = true;
}

void RequeueSample(Transition& t, uint64_t call, const std::string& why) {
  SampleEntry& sample = t.state.samples.at(call);
  sample.sampler_id.clear();
  if (++sample.losses > t.options().max_sampler_losses) {
    EndSample(t, call,
              MakeRetryableError(absl::StatusCode::kUnavailable, v1::SAMPLER_LOST,
                                 absl::StrCat("lost ", sample.losses, " samplers: ", why), 5000),
              SampleOutcome::kFailed);
    return;
  }
  std::erase(t.state.sample_queue, call);
  t.state.sample_queue.push_front(call);
}

void TellQueue(Transition& t, const std::string& reason) {
  int position = 0;
  for (const uint64_t call : t.state.sample_queue) {
    SampleEntry& sample = t.state.samples.at(call);
    if (sample.told_position != position || sample.told_reason != reason) {
      sample.told_position = position;
      sample.told_reason = reason;
      v1::SampleResponse response;
      response.mutable_queued()->set_position(position);
      response.mutable_queued()->set_reason(reason);
      t.Emit(SampleEvent{call, std::move(response)});
    }
    ++position;
  }
}

void TickSamples(Transition& t) {
  std::vector<uint64_t> over;
  for (const auto& [call, sample] : t.state.samples) {
    if (sample.deadline_ms && t.now.monotonic_ms >= *sample.deadline_ms) over.push_back(call);
  }
  for (const uint64_t call : over) {
    const SampleEntry& sample = t.state.samples.at(call);
    const bool queued = sample.sampler_id.empty();
    const absl::Status status =
        queued ? MakeError(absl::StatusCode::kDeadlineExceeded, v1::NO_FREE_SLOT,
                           absl::StrCat("the deadline passed while the request waited: ",
                                        sample.told_reason))
               : absl::DeadlineExceededError("the deadline passed while images were made");
    CancelOnSampler(t, sample);
    EndSample(t, call, status, SampleOutcome::kDeadline);
  }
}

}  // namespace diffmoe::server
