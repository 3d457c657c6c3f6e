// A sampler as the coordinator sees it, played by a test over a real gRPC stream.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/base/version.h"
#include "diffmoe/worker/v1/sampler_plane.grpc.pb.h"

namespace diffmoe::server {

class FakeSampler {
 public:
  // Opens the session and says SamplerHello.
  FakeSampler(const std::string& address, const worker::v1::GroupId& group,
              int protocol_version = kProtocolVersion);
  // Breaks the stream, as a dead sampler does.
  ~FakeSampler();

  // The next command that `wanted` accepts; those before it are kept for other waits. Nothing after
  // 10 s or when the stream has ended.
  std::optional<worker::v1::SamplerCommand> Wait(
      const std::function<bool(const worker::v1::SamplerCommand&)>& wanted);
  std::optional<worker::v1::SampleTask> WaitForTask();
  // How the coordinator ended the stream.
  grpc::Status WaitForEnd();

  // All of them in one message.
  void Push(const std::vector<worker::v1::SampleUpdate>& updates);
  // One message each.
  void Push(const worker::v1::SampleTask& task, const std::vector<v1::SampleResponse>& responses);

 private:
  void ReadAll();

  std::unique_ptr<worker::v1::SamplerPlane::Stub> plane_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<worker::v1::SamplerMessage, worker::v1::SamplerCommand>>
      stream_;
  absl::Mutex mutex_;
  std::deque<worker::v1::SamplerCommand> received_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status end_status_ ABSL_GUARDED_BY(mutex_);
  std::thread reader_;
};

}  // namespace diffmoe::server
