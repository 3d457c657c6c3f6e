// The spans of one sampling request in the rank: the request, its time in the queue, the loading of
// its checkpoint, and its run. Nothing is written without a tracer. Used by one thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/trace.h"

namespace diffmoe {

class SampleTrace {
 public:
  SampleTrace() = default;
  // `traceparent` may be empty: the request is a trace of its own then.
  SampleTrace(Tracer* tracer, const std::string& traceparent, const std::string& request_id,
              absl::Time arrival);

  // Its checkpoint was loaded, or was there, from `load_begin` to `now`.
  void Started(absl::Time load_begin, absl::Time now);
  // Once; later calls do nothing.
  void Ended(absl::Time now, int images, const absl::Status& status);

 private:
  void Child(const char* name, absl::Time begin, absl::Time end, const absl::Status& status);

  Tracer* tracer_ = nullptr;
  Span span_;
  absl::Time started_ = absl::InfinitePast();
};

}  // namespace diffmoe
