#include "server/http/rpc_call.h"

#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

namespace diffmoe::server {
namespace {

grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool FromBuffer(const grpc::ByteBuffer& buffer, google::protobuf::Message* message) {
  grpc::Slice slice;
  return buffer.DumpToSingleSlice(&slice).ok() &&
         message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

grpc::Status Unreadable(const std::string& method) {
  return grpc::Status(grpc::StatusCode::INTERNAL, "the answer of " + method + " can't be read");
}

}  // namespace

grpc::Status CallUnary(const std::shared_ptr<grpc::ChannelInterface>& channel,
                       const std::string& method, const google::protobuf::Message& request,
                       google::protobuf::Message* response, absl::Duration limit) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
  const grpc::ByteBuffer sent = ToBuffer(request);
  grpc::ByteBuffer received;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(&context, method, {}, &sent, &received, [&](grpc::Status result) {
    status = std::move(result);
    done.Notify();
  });
  done.WaitForNotification();
  if (status.ok() && !FromBuffer(received, response)) return Unreadable(method);
  return status;
}

StreamCall::StreamCall(const std::shared_ptr<grpc::ChannelInterface>& channel,
                       const std::string& method, const google::protobuf::Message& request)
    : stub_(channel), request_(ToBuffer(request)) {
  stub_.PrepareBidiStreamingCall(&context_, method, {}, this);
  AddHold();
  StartWriteLast(&request_, grpc::WriteOptions());
  StartRead(&received_);
  StartCall();
}

StreamCall::~StreamCall() {
  Cancel();
  bool release = false;
  {
    const absl::MutexLock lock(&mutex_);
    release = held_ && !reading_;
    if (release) held_ = false;
  }
  if (release) RemoveHold();
  const absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&done_));
}

StreamCall::Result StreamCall::Next(absl::Duration limit, google::protobuf::Message* message) {
  {
    const absl::MutexLock lock(&mutex_);
    const auto settled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return have_ || done_; };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&settled), limit)) return Result::kNothingYet;
    if (!have_) return Result::kEnded;
    have_ = false;
    // A message that can't be read can't happen between parts of one process.
    if (!FromBuffer(received_, message)) message->Clear();
    reading_ = true;
  }
  StartRead(&received_);
  return Result::kMessage;
}

grpc::Status StreamCall::status() {
  const absl::MutexLock lock(&mutex_);
  return status_;
}

void StreamCall::OnReadDone(bool ok) {
  bool release = false;
  {
    const absl::MutexLock lock(&mutex_);
    reading_ = false;
    have_ = ok;
    release = !ok && held_;
    if (release) held_ = false;
  }
  if (release) RemoveHold();
}

void StreamCall::OnDone(const grpc::Status& status) {
  const absl::MutexLock lock(&mutex_);
  status_ = status;
  done_ = true;
}

}  // namespace diffmoe::server
