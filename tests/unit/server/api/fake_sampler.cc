#include "tests/unit/server/api/fake_sampler.h"

#include "absl/time/time.h"

namespace diffmoe::server {

using worker::v1::SamplerCommand;
using worker::v1::SamplerMessage;

constexpr absl::Duration kLimit = absl::Seconds(10);

FakeSampler::FakeSampler(const std::string& address, const worker::v1::GroupId& group,
                         int protocol_version)
    : plane_(worker::v1::SamplerPlane::NewStub(
          grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))),
      stream_(plane_->Session(&context_)) {
  SamplerMessage message;
  message.mutable_hello()->set_protocol_version(protocol_version);
  *message.mutable_hello()->mutable_group() = group;
  stream_->Write(message);
  reader_ = std::thread([this] { ReadAll(); });
}

FakeSampler::~FakeSampler() {
  context_.TryCancel();
  reader_.join();
}

void FakeSampler::ReadAll() {
  SamplerCommand command;
  while (stream_->Read(&command)) {
    absl::MutexLock lock(&mutex_);
    received_.push_back(command);
  }
  const grpc::Status status = stream_->Finish();
  absl::MutexLock lock(&mutex_);
  end_status_ = status;
  ended_ = true;
}

std::optional<SamplerCommand> FakeSampler::Wait(
    const std::function<bool(const SamplerCommand&)>& wanted) {
  absl::MutexLock lock(&mutex_);
  auto found = received_.end();
  const auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (found = received_.begin(); found != received_.end(); ++found) {
      if (wanted(*found)) return true;
    }
    return ended_;
  };
  mutex_.AwaitWithTimeout(absl::Condition(&ready), kLimit);
  if (!ready() || found == received_.end()) return std::nullopt;
  SamplerCommand command = std::move(*found);
  received_.erase(found);
  return command;
}

std::optional<worker::v1::SampleTask> FakeSampler::WaitForTask() {
  const auto command = Wait([](const SamplerCommand& c) { return c.has_sample_task(); });
  return command ? std::optional(command->sample_task()) : std::nullopt;
}

grpc::Status FakeSampler::WaitForEnd() {
  absl::MutexLock lock(&mutex_);
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ended_), kLimit)) {
    return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the stream is still open");
  }
  return end_status_;
}

void FakeSampler::Push(const std::vector<worker::v1::SampleUpdate>& updates) {
  SamplerMessage message;
  for (const worker::v1::SampleUpdate& update : updates) {
    *message.mutable_updates()->add_updates() = update;
  }
  stream_->Write(message);
}

void FakeSampler::Push(const worker::v1::SampleTask& task,
                       const std::vector<v1::SampleResponse>& responses) {
  for (const v1::SampleResponse& response : responses) {
    worker::v1::SampleUpdate update;
    update.set_request_id(task.request_id());
    *update.mutable_response() = response;
    Push({update});
  }
}

}  // namespace diffmoe::server
