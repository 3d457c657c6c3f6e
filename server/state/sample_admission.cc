// Whether a sampling request is taken. Refusals cost no records and no copies of the job's spec.
#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/planted_faults.h"
#include "core/base/status_macros.h"
#include "core/spec/spec_convert.h"
#include "server/errors.h"
#include "server/sampling/calibrate_request.h"
#include "server/sampling/sample_request.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

constexpr int64_t kUnknownRetryMs = 5000;
constexpr int64_t kMinRetryMs = 100;
constexpr int64_t kMaxRetryMs = 60'000;
// A request alone on a sampler that takes longer than this many times its deadline is hopeless; the
// estimate may be too long, and running requests is what corrects it.
constexpr double kHopeless = 2;

void Refuse(Transition& t, uint64_t call, absl::Status status) {
  t.Emit(SampleEnd{call, std::move(status)});
  t.Emit(SampleCounted{SampleOutcome::kRefused, 0});
}

std::shared_ptr<const SampledModel> ModelOf(JobEntry& job) {
  if (job.sampled_model == nullptr) {
    const v1::TrainingSpec& spec = job.job().spec();
    job.sampled_model = std::make_shared<const SampledModel>(spec, ToTrainingConfig(spec));
  }
  return job.sampled_model;
}

// The checkpoint that the request means, or why there is none.
absl::StatusOr<int64_t> ResolveStep(const JobEntry& job, const std::optional<int64_t>& wanted) {
  const int64_t newest = RestorableStep(job);
  if (!wanted) {
    if (newest > 0) return newest;
    return MakeRetryableError(
        absl::StatusCode::kFailedPrecondition, v1::NO_CHECKPOINT_YET,
        absl::StrCat(job.job().name(), " has no checkpoint yet; it saves one every ",
                     job.job().spec().checkpoint().every_steps(), " steps"),
        kUnknownRetryMs);
  }
  const std::string name = CheckpointName(job.job().id(), *wanted);
  if (!job.checkpoints.contains(*wanted)) {
    if (IsPlaced(job.job().state()) && *wanted > newest && *wanted <= job.job().progress().step()) {
      return MakeRetryableError(
          absl::StatusCode::kFailedPrecondition, v1::NO_CHECKPOINT_YET,
          absl::StrCat(name, " isn't committed; if it is one, it is still being written"),
          kUnknownRetryMs);
    }
    return MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                     absl::StrCat(name, " doesn't exist"), name);
  }
  if (IsDamaged(job, *wanted)) {
    return MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                     absl::StrCat(name, " is damaged"), name);
  }
  return *wanted;
}

int64_t RetryMs(double seconds) {
  return std::clamp(static_cast<int64_t>(seconds * 1000), kMinRetryMs, kMaxRetryMs);
}

std::string Seconds(double seconds) { return absl::StrFormat("%.3g s", seconds); }

absl::Status QueueFull(const State& state, const JobEntry& job, const std::string& what) {
  const double wait = WaitSeconds(state, job, state.queued_rows);
  return MakeRetryableError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL, what,
                            wait > 0 ? RetryMs(wait / 2) : kUnknownRetryMs);
}

absl::Status CheckQueue(const State& state, const JobEntry& job, const SampleEntry& sample) {
  const StateOptions& options = state.options;
  const size_t waiting = state.sample_queue.size();
  if (waiting >= static_cast<size_t>(options.max_sample_requests)) {
    return QueueFull(state, job, absl::StrCat(waiting, " requests wait already"));
  }
  const size_t own = state.sample_queue.SizeOf(sample.user);
  if (own >= static_cast<size_t>(options.max_sample_requests_per_user)) {
    return QueueFull(state, job, absl::StrCat(own, " requests of the same user wait already"));
  }
  if (waiting > 0 && state.queued_rows + sample.cost.rows > options.max_sample_rows) {
    return QueueFull(state, job,
                     absl::StrCat("requests that wait already need ", state.queued_rows,
                                  " evaluations of the network, with this one more than ",
                                  options.max_sample_rows));
  }
  return absl::OkStatus();
}

// How much later it ends for the others. A sampler shares its steps so that none ends later than
// with equal shares, and none waits for more than all there is.
double WaitBeside(const State& state, const JobEntry& job, double own_seconds) {
  const double in_queue_and_samplers = WaitSeconds(state, job, state.queued_rows);
  const double in_samplers = WaitSeconds(state, job, 0);
  size_t samplers = 0, requests = 0;
  for (const auto& [id, sampler] : state.samplers) {
    if (sampler.phase != SamplerPhase::kReady || sampler.yielding) continue;
    ++samplers;
    requests += sampler.calls.size();
  }
  if (samplers == 0) return 0;
  const double shared = own_seconds * static_cast<double>(requests) / static_cast<double>(samplers);
  return in_queue_and_samplers - in_samplers + std::min(in_samplers, shared);
}

absl::Status CheckDeadline(Transition& t, const JobEntry& job, const SampleEntry& sample) {
  if (!sample.deadline_ms || !job.step_curve.known()) return absl::OkStatus();
  const double left = static_cast<double>(*sample.deadline_ms - t.now.monotonic_ms) / 1000;
  const double own = job.step_curve.SecondsAlone(sample.cost);
  if (own > kHopeless * left) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::DEADLINE_TOO_SHORT,
                     absl::StrCat("needs about ", Seconds(own),
                                  " on a sampler of its own, the deadline is in ", Seconds(left)));
  }
  const double wait = WaitBeside(t.state, job, own);
  if (wait == 0 || wait + own <= left) return absl::OkStatus();
  t.state.more_samplers_wanted = true;
  t.state.samples_due = true;
  return MakeRetryableError(
      absl::StatusCode::kResourceExhausted, v1::DEADLINE_TOO_SHORT,
      absl::StrCat("requests before it need ", Seconds(wait), " and it needs ", Seconds(own),
                   ", the deadline is in ", Seconds(left)),
      RetryMs(wait + own - left));
}

// The id's earlier use; null when it is new. ALREADY_EXISTS when that was another request.
absl::StatusOr<KnownSample*> FindKnown(State& state, const std::string& request_id,
                                       uint64_t body_hash) {
  const auto known = state.known_samples.find(request_id);
  if (request_id.empty() || known == state.known_samples.end()) return nullptr;
  if (known->second.body_hash != body_hash) {
    return MakeError(absl::StatusCode::kAlreadyExists, v1::REQUEST_ID_REUSED,
                     absl::StrCat("request_id \"", request_id, "\" was used for another request"),
                     request_id);
  }
  return &known->second;
}

void ForgetOldest(State& state) {
  const auto limit = static_cast<size_t>(state.options.max_known_samples);
  // Those that run stay; there are fewer of them than are looked at.
  for (size_t looks = state.known_sample_order.size();
       looks > 0 && state.known_samples.size() > limit; --looks) {
    std::string oldest = std::move(state.known_sample_order.front());
    state.known_sample_order.pop_front();
    if (state.known_samples.at(oldest).calls.empty()) {
      state.known_samples.erase(oldest);
    } else {
      state.known_sample_order.push_back(std::move(oldest));
    }
  }
}

void Remember(State& state, const SampleEntry& sample, uint64_t body_hash) {
  if (sample.request_id.empty()) return;
  const auto [known, added] = state.known_samples.try_emplace(sample.request_id);
  if (added) {
    state.known_sample_order.push_back(sample.request_id);
    known->second.body_hash = body_hash;
    known->second.step = sample.step;
    known->second.seed = sample.request.seed();
  }
  known->second.calls.insert(sample.call);
  ForgetOldest(state);
}

// The parts of a submission that samples and calibrations share.
template <typename Event>
absl::Status FillEntry(Transition& t, const Event& event, JobEntry& job, SampleEntry* sample) {
  sample->call = event.call;
  sample->request_id = event.request.request_id();
  sample->user = absl::StrCat(event.request.user(), "@", event.origin.host);
  sample->job_id = event.job_id;
  sample->model = ModelOf(job);
  sample->submitted_ms = t.now.monotonic_ms;
  if (event.deadline_in_ms > 0) sample->deadline_ms = t.now.monotonic_ms + event.deadline_in_ms;
  ASSIGN_OR_RETURN(const KnownSample* known,
                   FindKnown(t.state, sample->request_id, event.origin.body_hash));
  ASSIGN_OR_RETURN(sample->step, ResolveStep(job, known != nullptr ? known->step : event.step));
  sample->epoch = job.checkpoints.at(sample->step);
  return absl::OkStatus();
}

absl::Status Admit(Transition& t, const JobEntry& job, const SampleEntry& sample) {
  RETURN_IF_ERROR(CheckQueue(t.state, job, sample));
  return CheckDeadline(t, job, sample);
}

void Take(Transition& t, SampleEntry sample, uint64_t body_hash) {
  sample.task_id = absl::StrCat("sample-", t.state.next_sample_number++);
  Remember(t.state, sample, body_hash);
  const uint64_t call = sample.call;
  if (Planted(Fault::kDeadlineForgotten)) sample.deadline_ms.reset();
  if (sample.deadline_ms) t.state.sample_deadlines.emplace(*sample.deadline_ms, call);
  t.state.samples_by_task[sample.task_id] = call;
  AddToQueue(t.state, sample);
  t.state.samples[call] = std::move(sample);
  t.state.samples_due = true;
  DispatchWaiting(t);
}

absl::Status SubmitTo(Transition& t, const SubmitSample& event, JobEntry& job) {
  SampleEntry sample;
  const TrainingConfig& config = ModelOf(job)->config;
  auto violations = ValidateSampleRequest(event.request, config);
  if (!violations.empty()) return MakeViolations(v1::INVALID_REQUEST, std::move(violations));
  RETURN_IF_ERROR(FillEntry(t, event, job, &sample));
  sample.request = event.request;
  const auto known = t.state.known_samples.find(sample.request_id);
  if (known != t.state.known_samples.end()) sample.request.set_seed(known->second.seed);
  sample.request.set_checkpoint(CheckpointName(event.job_id, sample.step));
  CompleteSampleRequest(config, &sample.request);
  sample.cost = CostOf(sample.request);
  RETURN_IF_ERROR(Admit(t, job, sample));
  ASSIGN_OR_RETURN(sample.thresholds,
                   ThresholdsFor(job, sample.step, !event.step.has_value(), sample.request));
  Take(t, std::move(sample), event.origin.body_hash);
  return absl::OkStatus();
}

absl::Status SubmitTo(Transition& t, const SubmitCalibration& event, JobEntry& job) {
  SampleEntry sample;
  auto violations = ValidateCalibrateRequest(event.request, ModelOf(job)->config);
  if (!violations.empty()) return MakeViolations(v1::INVALID_REQUEST, std::move(violations));
  RETURN_IF_ERROR(FillEntry(t, event, job, &sample));
  sample.calibrate = event.request;
  sample.calibrate->set_checkpoint(CheckpointName(event.job_id, sample.step));
  CompleteCalibrateRequest(&*sample.calibrate);
  sample.cost = CostOf(*sample.calibrate);
  RETURN_IF_ERROR(Admit(t, job, sample));
  Take(t, std::move(sample), event.origin.body_hash);
  return absl::OkStatus();
}

template <typename Event>
void Submit(Transition& t, const Event& event) {
  t.Emit(SampleSubmitted{});
  if (event.deadline_in_ms < 0) {
    Refuse(t, event.call,
           absl::DeadlineExceededError("the deadline had passed when the request came; 0 steps"));
    return;
  }
  JobEntry* job = FindJob(t, event.job_id);
  if (job == nullptr) {
    Refuse(t, event.call,
           MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                     absl::StrCat(JobName(event.job_id), " doesn't exist"), JobName(event.job_id)));
    return;
  }
  absl::Status status = SubmitTo(t, event, *job);
  if (!status.ok()) Refuse(t, event.call, std::move(status));
}

}  // namespace

double WaitSeconds(const State& state, const JobEntry& job, int64_t queued_rows) {
  int samplers = 0;
  double backlog = 0;
  for (const auto& [id, sampler] : state.samplers) {
    if (sampler.phase != SamplerPhase::kReady || sampler.yielding) continue;
    ++samplers;
    backlog += BacklogSeconds(state, sampler);
  }
  if (samplers == 0 || !job.step_curve.known()) return 0;
  backlog += static_cast<double>(queued_rows) * job.step_curve.SecondsPerRow();
  return backlog / samplers;
}

void ForgetCall(State& state, const SampleEntry& sample) {
  const auto known = state.known_samples.find(sample.request_id);
  if (known != state.known_samples.end()) known->second.calls.erase(sample.call);
}

absl::StatusOr<std::shared_ptr<const v1::Calibration>> FindCalibration(
    const State& state, const std::string& job_id, const std::optional<int64_t>& step) {
  const auto job = state.jobs.find(job_id);
  if (job == state.jobs.end()) {
    return MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                     absl::StrCat(JobName(job_id), " doesn't exist"), JobName(job_id));
  }
  ASSIGN_OR_RETURN(const int64_t resolved, ResolveStep(job->second, step));
  const auto found = job->second.calibrations.find(resolved);
  if (found == job->second.calibrations.end()) {
    return NoCalibration(job->second, resolved, !step.has_value());
  }
  return found->second;
}

void OnSubmitSample(Transition& t, const SubmitSample& event) { Submit(t, event); }
void OnSubmitCalibration(Transition& t, const SubmitCalibration& event) { Submit(t, event); }

}  // namespace diffmoe::server
