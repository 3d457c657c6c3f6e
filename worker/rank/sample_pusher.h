// Sends the updates of a sampler over BulkPlane.PushSamples, in order, from a thread of its own. A
// stream lives while requests are open and a second longer: its clean end says that everything has
// arrived, and an idle sampler holds no stream that could die unseen.
//
// Bound: 64 MB of waiting updates; Push blocks until there is room, for at most a minute. When a
// stream breaks, every request that had an update on it is given up: what waits of it is dropped,
// Push returns the error for it from then on, and an error update on the next stream tells the
// other side. Other requests go over the next stream. ABORTED ends the pusher for good.
//
// Thread-safe. Order: construct, Push, destroy (waits up to 5 s for what is waiting, then cancels).
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"

namespace diffmoe {

class SamplePusher {
 public:
  // `stub` outlives the pusher; `group` is the sampler's.
  SamplePusher(worker::v1::BulkPlane::StubInterface* stub, worker::v1::GroupId group);
  ~SamplePusher();

  // `last`: no update of this request follows. Errors: RESOURCE_EXHAUSTED, update larger than a
  // message may be; UNAVAILABLE; ABORTED, the group is no longer wanted.
  absl::Status Push(worker::v1::SampleUpdate update, bool last);

 private:
  void Run();
  // Sends until the stream breaks, no request is open, or the pusher is closed.
  void RunStream();
  // Writes what waits; false when the stream has broken.
  bool WriteAll(grpc::ClientWriterInterface<worker::v1::SampleUpdate>& stream);
  void Break(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  struct Waiting {
    worker::v1::SampleUpdate update;
    bool last = false;
    bool notice = false;  // says that a request was given up
  };

  worker::v1::BulkPlane::StubInterface* const stub_;
  const worker::v1::GroupId group_;
  absl::Mutex mutex_;
  std::deque<Waiting> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  // Requests with updates pushed whose last one has not been written.
  absl::flat_hash_set<std::string> open_ ABSL_GUARDED_BY(mutex_);
  // Requests with updates on the current stream; of the finished ones at most 1,024.
  absl::flat_hash_set<std::string> on_stream_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> given_up_ ABSL_GUARDED_BY(mutex_);
  bool carried_ ABSL_GUARDED_BY(mutex_) = false;  // the current stream has taken an update
  absl::Status break_reason_ ABSL_GUARDED_BY(mutex_);
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread thread_;
};

}  // namespace diffmoe
