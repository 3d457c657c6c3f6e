// What the coordinator adds to traces: a span for each call that makes a job or images, the
// attempts of a job below the call that made it, and for images the time in the queue and at a
// sampler. The context of a call goes on to ranks, also when this process writes no spans itself.
//
// Kept in memory: a job that was submitted before the coordinator's start is not traced. At most
// 10,000 calls and 10,000 jobs at a time; more are not traced. Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/base/trace.h"
#include "diffmoe/v1/training_job.pb.h"
#include "diffmoe/worker/v1/sampler_plane.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"

namespace diffmoe::server {

// A call that is traced, or is not.
struct CallTrace {
  std::optional<TraceContext> client;  // of the header
  Span span = {};                      // without a context: none is written
};

class CallTraces {
 public:
  // Null: no spans. `tracer` outlives the object.
  explicit CallTraces(Tracer* tracer) : tracer_(tracer) {}

  // `method`: "TrainingJobService/SubmitJob". A header that can't be is ignored.
  CallTrace Begin(const grpc::CallbackServerContext& context, const std::string& method);

  // The call has made a job, or has failed.
  void EndSubmit(CallTrace trace, const absl::Status& status, const std::string& job_id);
  // Writes the attempts that have ended.
  void JobChanged(const v1::Job& job);

  // A call of the sampling service; `request_id` is the one in its task.
  void BeginSampling(uint64_t call, CallTrace trace, const std::string& request_id);
  void SamplingStarted(uint64_t call);
  void EndSampling(uint64_t call, const absl::Status& status);

  // Puts the context into a message that starts work.
  void Decorate(worker::v1::CoordinatorMessage* message);
  void Decorate(worker::v1::SamplerCommand* command);

 private:
  struct Sampling {
    CallTrace trace;
    std::string request_id;
    std::optional<TraceContext> run = std::nullopt;  // of the span at the sampler
    absl::Time started = absl::InfinitePast();
  };
  struct Job {
    std::optional<TraceContext> submit;        // of the span, or of the header
    std::map<int64_t, TraceContext> attempts;  // by epoch, those that have not ended
  };

  std::string ForRequest(const std::string& request_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string ForAttempt(const worker::v1::GroupId& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteAttempt(const v1::Job& job, const v1::Attempt& attempt, const Job& of,
                    const TraceContext& context);

  Tracer* const tracer_;
  absl::Mutex mutex_;
  bool told_ ABSL_GUARDED_BY(mutex_) = false;  // that a header was bad
  std::map<uint64_t, Sampling> samplings_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> calls_ ABSL_GUARDED_BY(mutex_);  // by request_id
  std::map<std::string, Job> jobs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
