// The response streams of Sample and CalibrateCheckpoint calls. A slow reader gets the newest
// progress report and the newest preview of each image, and every image: when 128 MB of images wait
// for it, its stream ends with RESOURCE_EXHAUSTED. Thread-safe but for Push and Flush, which belong
// to one thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "diffmoe/v1/sampling.pb.h"

namespace diffmoe::server {

template <typename Response>
class ResponseStream;

template <typename Response>
class ResponseStreams {
 public:
  // `cancelled` is called with the call's number when its client is gone or reads too slowly.
  explicit ResponseStreams(std::function<void(uint64_t)> cancelled)
      : cancelled_(std::move(cancelled)) {}

  grpc::ServerWriteReactor<Response>* Open(uint64_t call);
  // Unknown calls are ignored: they have ended.
  void Push(uint64_t call, Response response);
  // What was pushed goes out. What one batch makes pointless by its end isn't sent at all.
  void Flush();
  // After what is queued.
  void End(uint64_t call, const absl::Status& status);
  // Ends all streams, and all later ones.
  void CloseAll(const absl::Status& status);

 private:
  friend class ResponseStream<Response>;
  std::shared_ptr<ResponseStream<Response>> Find(uint64_t call);
  void Ended(uint64_t call);

  const std::function<void(uint64_t)> cancelled_;
  std::vector<std::shared_ptr<ResponseStream<Response>>> unflushed_;
  absl::Mutex mutex_;
  std::map<uint64_t, std::shared_ptr<ResponseStream<Response>>> streams_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
};

extern template class ResponseStreams<v1::SampleResponse>;
extern template class ResponseStreams<v1::CalibrateCheckpointResponse>;

using SampleStreams = ResponseStreams<v1::SampleResponse>;
using CalibrationStreams = ResponseStreams<v1::CalibrateCheckpointResponse>;

}  // namespace diffmoe::server
