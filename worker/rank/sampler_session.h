// A sampler's session with the coordinator: requests come over it, updates go over it. What came
// over a session ends with it: the coordinator gives the requests away again, this side drops what
// waits of them, and Push refuses what still comes. The next session is tried at once, then with
// growing delays, until the coordinator says that the sampler isn't wanted.
//
// Updates wait until Flush, so that those of one step travel in one message; 256 KiB of them go
// without it. Bound: 64 MB; Push blocks until there is room, for at most a minute.
//
// Thread-safe. Order: construct, Start, use, destroy (waits up to 5 s until what waits has
// arrived).
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "diffmoe/worker/v1/sampler_plane.grpc.pb.h"

namespace diffmoe {

class SamplerSession {
 public:
  struct Events {
    // Called one at a time.
    std::function<void(const worker::v1::SamplerCommand&)> command;
    // Requests that came and have not ended are lost.
    std::function<void()> lost;
    // No further session will be tried.
    std::function<void(absl::Status)> refused;
  };
  // `address`: the coordinator's, "HOST:PORT".
  SamplerSession(std::string address, worker::v1::GroupId group, Events events);
  ~SamplerSession();

  // RESOURCE_EXHAUSTED when the system gives no thread.
  absl::Status Start();

  // `last`: no update of this request follows. Errors: RESOURCE_EXHAUSTED, an update larger than a
  // message may be; UNAVAILABLE, the session with which its request came is over.
  absl::Status Push(worker::v1::SampleUpdate update, bool last);
  void Flush();

 private:
  class Stream;

  void Run();
  // One session from connect to end.
  absl::Status RunStream();
  void OnCommand(const worker::v1::SamplerCommand& command);
  void OnReadEnd();
  void OnWriteDone();
  void OnStreamDone(const grpc::Status& status);
  bool CanWrite() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stream_ != nullptr && !writing_ && !read_ended_;
  }
  // Moves waiting updates into in_flight_. The caller starts the write after giving the lock back.
  void TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True once per stream: nothing will be started from outside any more.
  bool ReleaseHold() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string address_;
  const worker::v1::GroupId group_;
  const Events events_;

  absl::Mutex mutex_;
  Stream* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  grpc::Status stream_status_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;  // the current stream
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  // Requests of this session whose last update has not been pushed.
  absl::flat_hash_set<std::string> open_ ABSL_GUARDED_BY(mutex_);
  std::deque<worker::v1::SampleUpdate> waiting_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  worker::v1::SamplerMessage in_flight_;  // of whoever has set writing_
  bool lost_work_ = false;                // of the thread
  std::thread thread_;
};

}  // namespace diffmoe
