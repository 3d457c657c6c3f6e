#include "worker/rank/sample_trace.h"

#include <cstdint>
#include <optional>
#include <utility>

namespace diffmoe {

SampleTrace::SampleTrace(Tracer* tracer, const std::string& traceparent,
                         const std::string& request_id, absl::Time arrival)
    : tracer_(tracer) {
  if (tracer_ == nullptr) return;
  const std::optional<TraceContext> parent = ParseTraceparent(traceparent);
  span_.context = tracer_->NewSpan(parent);
  if (parent.has_value()) span_.parent_id = parent->span_id;
  span_.name = "sample";
  span_.start = arrival;
  span_.attributes = {{"diffmoe.request", request_id}};
}

void SampleTrace::Child(const char* name, absl::Time begin, absl::Time end,
                        const absl::Status& status) {
  tracer_->Record({.context = tracer_->NewSpan(span_.context),
                   .parent_id = span_.context.span_id,
                   .name = name,
                   .start = begin,
                   .end = end,
                   .status = status});
}

void SampleTrace::Started(absl::Time load_begin, absl::Time now) {
  if (tracer_ == nullptr) return;
  started_ = now;
  Child("queue", span_.start, load_begin, absl::OkStatus());
  Child("load model", load_begin, now, absl::OkStatus());
}

void SampleTrace::Ended(absl::Time now, int images, const absl::Status& status) {
  if (tracer_ == nullptr) return;
  if (started_ != absl::InfinitePast()) Child("run", started_, now, status);
  span_.end = now;
  span_.status = status;
  span_.attributes.emplace_back("diffmoe.images", int64_t{images});
  tracer_->Record(std::move(span_));
  tracer_ = nullptr;
}

}  // namespace diffmoe
