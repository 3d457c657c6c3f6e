// Calls of the coordinator's own API by method name and message type. Thread-safe but where noted.
#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"

namespace diffmoe::server {

// One call with one answer; waits for it. `method`: "/diffmoe.v1.ClusterService/GetCluster".
grpc::Status CallUnary(const std::shared_ptr<grpc::ChannelInterface>& channel,
                       const std::string& method, const google::protobuf::Message& request,
                       google::protobuf::Message* response, absl::Duration limit);

// One call with a stream of answers, which are read one at a time, so that a slow reader slows the
// server's stream and nothing piles up here. Next is for one thread.
class StreamCall final : private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  enum class Result { kMessage, kNothingYet, kEnded };

  StreamCall(const std::shared_ptr<grpc::ChannelInterface>& channel, const std::string& method,
             const google::protobuf::Message& request);
  // Cancels the call and waits for its end.
  ~StreamCall() override;

  Result Next(absl::Duration limit, google::protobuf::Message* message);
  void Cancel() { context_.TryCancel(); }
  // After kEnded.
  grpc::Status status();

 private:
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_, received_;
  absl::Mutex mutex_;
  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool have_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;  // reads are started from outside of reactions
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
