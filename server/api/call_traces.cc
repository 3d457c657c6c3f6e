#include "server/api/call_traces.h"

#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "server/state/state.h"

namespace diffmoe::server {
namespace {

constexpr char kHeader[] = "traceparent";
constexpr size_t kMaxEntries = 10'000;

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

Span Below(const CallTrace& trace, TraceContext context, const char* name, absl::Time start) {
  return {.context = std::move(context),
          .parent_id = trace.span.context.span_id,
          .name = name,
          .start = start,
          .end = absl::Now(),
          .attributes = trace.span.attributes};
}

}  // namespace

CallTrace CallTraces::Begin(const grpc::CallbackServerContext& context, const std::string& method) {
  CallTrace trace;
  const auto header = context.client_metadata().find(kHeader);
  if (header != context.client_metadata().end()) {
    trace.client = ParseTraceparent({header->second.data(), header->second.size()});
    absl::MutexLock lock(&mutex_);
    if (!trace.client.has_value() && !std::exchange(told_, true)) {
      LogWarning("coordinator", "a traceparent that can't be is ignored, and all later ones",
                 {{"method", method},
                  {"traceparent", std::string(header->second.data(), header->second.size())}});
    }
  }
  if (tracer_ == nullptr) return trace;
  const std::vector<std::string> names = absl::StrSplit(method, '/');
  trace.span.context = tracer_->NewSpan(trace.client);
  if (trace.client.has_value()) trace.span.parent_id = trace.client->span_id;
  trace.span.name = method;
  trace.span.kind = SpanKind::kServer;
  trace.span.start = absl::Now();
  trace.span.attributes = {{"rpc.system", std::string("grpc")},
                           {"rpc.service", "diffmoe.v1." + names.front()},
                           {"rpc.method", names.back()}};
  return trace;
}

void CallTraces::EndSubmit(CallTrace trace, const absl::Status& status, const std::string& job_id) {
  const bool written = !trace.span.context.span_id.empty();
  const std::optional<TraceContext> context = written ? trace.span.context : trace.client;
  if (!context.has_value()) return;
  if (written) {
    trace.span.end = absl::Now();
    trace.span.status = status;
    trace.span.attributes.emplace_back("rpc.grpc.status_code", static_cast<int64_t>(status.code()));
    if (status.ok()) trace.span.attributes.emplace_back("diffmoe.job", job_id);
    tracer_->Record(std::move(trace.span));
  }
  if (!status.ok()) return;
  absl::MutexLock lock(&mutex_);
  // The same request again has made nothing.
  if (jobs_.size() < kMaxEntries) jobs_.try_emplace(job_id, Job{context, {}});
}

void CallTraces::WriteAttempt(const v1::Job& job, const v1::Attempt& attempt, const Job& of,
                              const TraceContext& context) {
  Span span{.context = context,
            .parent_id = of.submit->span_id,
            .name = "attempt",
            .start = TimeOf(attempt.start_time()),
            .end = TimeOf(attempt.end_time()),
            .attributes = {{"diffmoe.job", job.id()},
                           {"diffmoe.epoch", attempt.epoch()},
                           {"diffmoe.ranks", static_cast<int64_t>(attempt.placements_size())},
                           {"diffmoe.restored_step", attempt.restored_step()},
                           {"diffmoe.last_step", attempt.last_step()},
                           {"diffmoe.end", v1::EndCause_Name(attempt.end_cause())}}};
  if (attempt.end_cause() != v1::END_CAUSE_FINISHED) {
    span.status = absl::AbortedError(attempt.end_reason());
  }
  tracer_->Record(std::move(span));
}

void CallTraces::JobChanged(const v1::Job& job) {
  absl::MutexLock lock(&mutex_);
  const auto found = jobs_.find(job.id());
  if (found == jobs_.end()) return;
  for (const v1::Attempt& attempt : job.attempts()) {
    const auto context = found->second.attempts.find(attempt.epoch());
    if (context == found->second.attempts.end() || !attempt.has_end_time()) continue;
    WriteAttempt(job, attempt, found->second, context->second);
    found->second.attempts.erase(context);
  }
  if (HasEnded(job.state())) jobs_.erase(found);
}

void CallTraces::BeginSampling(uint64_t call, CallTrace trace, const std::string& request_id) {
  if (!trace.client.has_value() && trace.span.context.span_id.empty()) return;
  Sampling sampling{std::move(trace), request_id};
  if (tracer_ != nullptr) {
    sampling.run = tracer_->NewSpan(sampling.trace.span.context);
    sampling.trace.span.attributes.emplace_back("diffmoe.request", request_id);
  }
  absl::MutexLock lock(&mutex_);
  if (samplings_.size() >= kMaxEntries) return;
  samplings_[call] = std::move(sampling);
  calls_[request_id] = call;
}

void CallTraces::SamplingStarted(uint64_t call) {
  absl::MutexLock lock(&mutex_);
  const auto found = samplings_.find(call);
  // A second start, at another sampler, belongs to the same span.
  if (found == samplings_.end() || found->second.started != absl::InfinitePast()) return;
  found->second.started = absl::Now();
  if (tracer_ == nullptr) return;
  const CallTrace& trace = found->second.trace;
  tracer_->Record(Below(trace, tracer_->NewSpan(trace.span.context), "queue", trace.span.start));
}

void CallTraces::EndSampling(uint64_t call, const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  const auto found = samplings_.find(call);
  if (found == samplings_.end()) return;
  Sampling sampling = std::move(found->second);
  samplings_.erase(found);
  const auto by_id = calls_.find(sampling.request_id);
  if (by_id != calls_.end() && by_id->second == call) calls_.erase(by_id);
  if (tracer_ == nullptr) return;
  Span& span = sampling.trace.span;
  if (sampling.started != absl::InfinitePast()) {
    Span run = Below(sampling.trace, *sampling.run, "run", sampling.started);
    run.status = status;
    tracer_->Record(std::move(run));
  }
  span.end = absl::Now();
  span.status = status;
  span.attributes.emplace_back("rpc.grpc.status_code", static_cast<int64_t>(status.code()));
  tracer_->Record(std::move(span));
}

std::string CallTraces::ForRequest(const std::string& request_id) {
  const auto call = calls_.find(request_id);
  if (call == calls_.end()) return "";
  const Sampling& sampling = samplings_.at(call->second);
  return FormatTraceparent(sampling.run.has_value() ? *sampling.run : *sampling.trace.client);
}

std::string CallTraces::ForAttempt(const worker::v1::GroupId& group) {
  const auto found = jobs_.find(group.id());
  if (found == jobs_.end()) return "";
  Job& job = found->second;
  if (tracer_ == nullptr) return FormatTraceparent(*job.submit);
  const auto known = job.attempts.find(group.epoch());
  if (known != job.attempts.end()) return FormatTraceparent(known->second);
  return FormatTraceparent(
      job.attempts.emplace(group.epoch(), tracer_->NewSpan(job.submit)).first->second);
}

void CallTraces::Decorate(worker::v1::CoordinatorMessage* message) {
  if (!message->has_start_rank() || message->start_rank().role() != worker::v1::ROLE_TRAIN) return;
  absl::MutexLock lock(&mutex_);
  message->mutable_start_rank()->set_traceparent(ForAttempt(message->start_rank().group()));
}

void CallTraces::Decorate(worker::v1::SamplerCommand* command) {
  absl::MutexLock lock(&mutex_);
  if (command->has_sample_task()) {
    worker::v1::SampleTask* task = command->mutable_sample_task();
    task->set_traceparent(ForRequest(task->request().request_id()));
  } else if (command->has_calibrate_task()) {
    worker::v1::CalibrateTask* task = command->mutable_calibrate_task();
    task->set_traceparent(ForRequest(task->request().request_id()));
  }
}

}  // namespace diffmoe::server
