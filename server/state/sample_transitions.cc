#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "server/errors.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

using worker::v1::SampleUpdate;

void SendCancel(Transition& t, const SamplerEntry& sampler, const std::string& task_id) {
  if (Planted(Fault::kSampleCancelForgotten)) return;
  worker::v1::SamplerCommand command;
  command.mutable_cancel_sample()->set_request_id(task_id);
  SendToSamplerOf(t, sampler, std::move(command));
}

void CompleteReceipt(const SampleEntry& sample, v1::Receipt* receipt) {
  const v1::SampleRequest& request = sample.request;
  receipt->set_checkpoint(request.checkpoint());
  receipt->set_seed(request.seed());
  receipt->set_steps(request.steps());
  receipt->set_guidance(request.guidance());
  receipt->set_sampler(request.sampler());
  if (request.has_eta()) receipt->set_eta(request.eta());
  if (request.has_guidance_interval()) {
    *receipt->mutable_guidance_interval() = request.guidance_interval();
  }
  *receipt->mutable_classes() = request.classes();
  receipt->set_count(request.count());
  receipt->set_request_id(request.request_id());
  if (request.has_capacity()) receipt->set_target_capacity(request.capacity());
  receipt->set_threshold_rule(request.threshold_rule());
  receipt->set_image_size(request.image_size());
  if (request.has_negative_class()) receipt->set_negative_class(request.negative_class());
  receipt->set_numeric_mode(request.numeric_mode());
  receipt->set_first_image(request.first_image());
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
    case absl::StatusCode::kResourceExhausted:
      return MakeRetryableError(code, v1::QUEUE_FULL, error.message(), 5000);
    case absl::StatusCode::kOk:
      return absl::InternalError(error.message());
    default:
      return absl::Status(code, error.message());
  }
}

// It gave the request back. One that had begun is run again elsewhere; one that had not was refused
// because the sampler stops or is full, and is offered again. False: the error is the request's
// end.
bool TakeBack(Transition& t, SampleEntry& sample, SamplerEntry& sampler,
              const worker::v1::SampleError& error) {
  const auto code = static_cast<absl::StatusCode>(error.status_code());
  const bool full = code == absl::StatusCode::kResourceExhausted && !sample.begun;
  if (code != absl::StatusCode::kUnavailable && !full) return false;
  if (sample.begun) {
    sampler.avoid_until_ms = t.now.monotonic_ms + t.options().sampler_avoid_ms;
    WorkerEntry& worker = t.state.workers.at(sampler.worker_id);
    worker.no_samplers_until_ms = std::max(worker.no_samplers_until_ms, sampler.avoid_until_ms);
    TakeFromSampler(t, sampler, sample);
    RequeueSample(t, sample.call, error.message());
    return true;
  }
  if (++sample.refusals > t.options().max_sampler_refusals) return false;
  sampler.not_before_ms = t.now.monotonic_ms + t.options().sampler_retry_ms;
  TakeFromSampler(t, sampler, sample);
  sample.sampler_id.clear();
  AddToQueue(t.state, sample);
  return true;
}

void OnError(Transition& t, SampleEntry& sample, SamplerEntry& sampler,
             const worker::v1::SampleError& error) {
  if (TakeBack(t, sample, sampler, error)) return;
  const absl::Status status = SamplerError(sample, error);
  if (absl::IsDataLoss(status)) {
    OnCheckpointDamaged(t, {sample.job_id, sample.step, error.message()});
  }
  EndSample(t, sample.call, status,
            absl::IsDeadlineExceeded(status) ? SampleOutcome::kDeadline : SampleOutcome::kFailed);
}

enum class ImagePart { kNew, kRepeated, kGap };

// A second sampler makes the same images again: keeps what the client doesn't have yet.
ImagePart TakeImage(SampleEntry& sample, v1::SampleResponse::Image* image) {
  const auto size = static_cast<int64_t>(image->pixels().size());
  const int64_t end = image->offset() + size;
  const int64_t total = image->total_bytes() > 0 ? image->total_bytes() : end;
  const int index = image->index();
  const bool sent = index == sample.next_image && sample.next_offset > 0 &&
                    end <= sample.next_offset && !Planted(Fault::kImagesSentAgain);
  if (sent || (index < sample.next_image && !Planted(Fault::kImagesSentAgain))) {
    return ImagePart::kRepeated;
  }
  if (index > sample.next_image || image->offset() > sample.next_offset) return ImagePart::kGap;
  if (image->offset() < sample.next_offset) {
    image->mutable_pixels()->erase(0, static_cast<size_t>(sample.next_offset - image->offset()));
    image->set_offset(sample.next_offset);
  }
  sample.next_offset = end;
  if (end >= total) {
    ++sample.next_image;
    sample.next_offset = 0;
  }
  return ImagePart::kNew;
}

void LoseOnSampler(Transition& t, SampleEntry& sample, const std::string& why) {
  CancelOnSampler(t, sample);
  RequeueSample(t, sample.call, why);
}

void OnResponse(Transition& t, SampleEntry& sample, v1::SampleResponse response) {
  if (response.has_started()) {
    response.mutable_started()->set_checkpoint(CheckpointName(sample.job_id, sample.step));
  }
  if (response.has_image()) {
    const ImagePart part = TakeImage(sample, response.mutable_image());
    if (part == ImagePart::kRepeated) return;
    if (part == ImagePart::kGap) {
      return LoseOnSampler(t, sample, "a part of an image went missing on its way");
    }
  }
  const bool last = response.has_finished();
  if (last && sample.next_image < sample.request.count()) {
    return LoseOnSampler(
        t, sample,
        absl::StrCat("only ", sample.next_image, " of ", sample.request.count(), " images came"));
  }
  if (last) CompleteReceipt(sample, response.mutable_finished()->mutable_receipt());
  t.Emit(SampleEvent{sample.call, std::move(response)});
  if (last) EndSample(t, sample.call, absl::OkStatus(), SampleOutcome::kOk);
}

// One that was cancelled, or runs elsewhere by now. Its cancel may be lost.
void DropUnwanted(Transition& t, const SamplerEntry& sampler, const SampleUpdate& update) {
  if (update.response().has_started() || update.response().has_progress() ||
      update.calibration().has_progress()) {
    SendCancel(t, sampler, update.request_id());
  }
}

void Expire(Transition& t, SampleEntry& sample) {
  const absl::Status status =
      sample.sampler_id.empty()
          ? MakeError(
                absl::StatusCode::kDeadlineExceeded, v1::NO_FREE_SLOT,
                absl::StrCat("the deadline passed while the request waited: ", sample.told_reason))
          : absl::DeadlineExceededError("the deadline passed while images were made");
  CancelOnSampler(t, sample);
  EndSample(t, sample.call, status, SampleOutcome::kDeadline);
}

void OnSampleUpdate(Transition& t, SamplerEntry& sampler, const SampleUpdate& update) {
  if (update.has_load()) return OnSamplerLoad(t, sampler, update.load());
  const auto call = t.state.samples_by_task.find(update.request_id());
  if (call == t.state.samples_by_task.end() ||
      t.state.samples.at(call->second).sampler_id != sampler.id) {
    return DropUnwanted(t, sampler, update);
  }
  SampleEntry& sample = t.state.samples.at(call->second);
  if (sample.deadline_ms && *sample.deadline_ms <= t.now.monotonic_ms) return Expire(t, sample);
  if (update.has_error()) return OnError(t, sample, sampler, update.error());
  sample.begun = true;
  if (!sample.waited) {
    sample.waited = true;
    t.Emit(SampleWaitMeasured{t.now.monotonic_ms - sample.submitted_ms});
  }
  if (update.calibration().has_finished()) {
    FinishCalibration(t, sample.call, update.calibration().finished());
  } else if (update.has_calibration()) {
    t.Emit(CalibrationEvent{sample.call, update.calibration()});
  } else {
    OnResponse(t, sample, update.response());
  }
}

}  // namespace

void CancelOnSampler(Transition& t, SampleEntry& sample) {
  const auto found = t.state.samplers.find(sample.sampler_id);
  if (found == t.state.samplers.end()) return;
  SendCancel(t, found->second, sample.task_id);
  TakeFromSampler(t, found->second, sample);
  sample.sampler_id.clear();
}

void OnCancelSample(Transition& t, const CancelSample& event) {
  const auto found = t.state.samples.find(event.call);
  if (found == t.state.samples.end()) return;
  CancelOnSampler(t, found->second);
  EndSample(t, event.call, absl::CancelledError("cancelled by the client"),
            SampleOutcome::kCancelled);
}

void OnCancelSampleById(Transition& t, const CancelSampleById& event) {
  const auto known = t.state.known_samples.find(event.request_id);
  if (known == t.state.known_samples.end()) {
    t.ReplyError(event.call, MakeError(absl::StatusCode::kNotFound, v1::SAMPLE_NOT_FOUND,
                                       absl::StrCat("no request with the id \"", event.request_id,
                                                    "\" is known; the last ",
                                                    t.options().max_known_samples, " are"),
                                       event.request_id));
    return;
  }
  const std::set<uint64_t> calls = known->second.calls;
  for (const uint64_t call : calls) {
    CancelOnSampler(t, t.state.samples.at(call));
    EndSample(t, call, absl::CancelledError("cancelled by its request_id"),
              SampleOutcome::kCancelled);
  }
  t.Emit(Reply{event.call, absl::OkStatus(), {}, false});
}

void OnSamplerUpdated(Transition& t, const SamplerUpdated& event) {
  for (const SampleUpdate& update : event.updates.updates()) {
    // What an update changes may end the session.
    const auto session = t.state.sampler_sessions.find(event.session);
    if (session == t.state.sampler_sessions.end()) return;
    OnSampleUpdate(t, t.state.samplers.at(session->second), update);
  }
  t.Emit(ReadSampler{event.session});
}

void EndSample(Transition& t, uint64_t call, absl::Status status, SampleOutcome outcome) {
  const auto found = t.state.samples.find(call);
  const SampleEntry sample = std::move(found->second);
  t.state.samples.erase(found);
  t.Emit(SampleEnd{call, std::move(status)});
  if (outcome != SampleOutcome::kCancelled || !Planted(Fault::kSampleCountLost)) {
    t.Emit(SampleCounted{outcome, t.now.monotonic_ms - sample.submitted_ms});
  }
  t.state.samples_by_task.erase(sample.task_id);
  if (sample.deadline_ms) t.state.sample_deadlines.erase({*sample.deadline_ms, call});
  ForgetCall(t.state, sample);
  RemoveFromQueue(t.state, sample);
  const auto sampler = t.state.samplers.find(sample.sampler_id);
  if (sampler != t.state.samplers.end()) TakeFromSampler(t, sampler->second, sample);
  if (JobEntry* job = FindJob(t, sample.job_id)) ApplyRetention(t, *job);
  t.state.samples_due = true;
}

void RequeueSample(Transition& t, uint64_t call, const std::string& why) {
  SampleEntry& sample = t.state.samples.at(call);
  sample.sampler_id.clear();
  sample.begun = false;
  if (++sample.losses > t.options().max_sampler_losses) {
    EndSample(t, call,
              MakeRetryableError(absl::StatusCode::kUnavailable, v1::SAMPLER_LOST,
                                 absl::StrCat("lost ", sample.losses, " samplers: ", why), 5000),
              SampleOutcome::kFailed);
    return;
  }
  if (Planted(Fault::kRequestNotRequeued)) return;
  AddToQueue(t.state, sample);
  t.state.samples_due = true;
}

void TickSamples(Transition& t) {
  auto& deadlines = t.state.sample_deadlines;
  while (!deadlines.empty() && deadlines.begin()->first <= t.now.monotonic_ms) {
    Expire(t, t.state.samples.at(deadlines.begin()->second));
  }
}

}  // namespace diffmoe::server
