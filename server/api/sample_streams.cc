#include "server/api/sample_streams.h"

#include <utility>
#include <vector>

#include "server/api/grpc_status.h"
#include "server/api/stream_outbox.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

// A newer report makes these pointless.
bool IsReport(const v1::SampleResponse& response) {
  return response.has_progress() || response.has_queued();
}

}  // namespace

class SampleStream final : public grpc::ServerWriteReactor<v1::SampleResponse>,
                           public std::enable_shared_from_this<SampleStream> {
 public:
  SampleStream(SampleStreams* streams, uint64_t call)
      : streams_(streams),
        call_(call),
        outbox_({.max_messages = 4096, .max_bytes = size_t{128} << 20}) {}

  void Begin() { self_ = shared_from_this(); }

  void Push(v1::SampleResponse response) {
    OutboxAction action = OutboxAction::kNone;
    const bool report = IsReport(response);
    if (outbox_.PushOrReplaceLast(
            std::move(response),
            [report](const v1::SampleResponse& last) { return report && IsReport(last); },
            &action)) {
      Do(action);
      return;
    }
    streams_->cancelled_(call_);
    End(MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                  "images were read too slowly: 128 MB are waiting"),
        /*drop_queue=*/true);
  }

  void End(const absl::Status& status, bool drop_queue) {
    Do(outbox_.End(ToGrpc(status), drop_queue));
  }

 private:
  void OnWriteDone(bool ok) override { Do(outbox_.WriteDone(ok)); }
  void OnCancel() override {
    streams_->cancelled_(call_);
    End(absl::CancelledError("the client is gone"), /*drop_queue=*/true);
  }
  void OnDone() override {
    streams_->Ended(call_);
    self_.reset();
  }
  void Do(OutboxAction action) {
    if (action == OutboxAction::kWrite) StartWrite(&outbox_.in_flight());
    if (action == OutboxAction::kFinish) Finish(outbox_.end_status());
  }

  SampleStreams* streams_;
  const uint64_t call_;
  StreamOutbox<v1::SampleResponse> outbox_;
  std::shared_ptr<SampleStream> self_;
};

grpc::ServerWriteReactor<v1::SampleResponse>* SampleStreams::Open(uint64_t call) {
  auto stream = std::make_shared<SampleStream>(this, call);
  stream->Begin();
  absl::Status closed;
  {
    absl::MutexLock lock(&mutex_);
    streams_[call] = stream;
    closed = closed_;
  }
  if (!closed.ok()) stream->End(closed, /*drop_queue=*/true);
  return stream.get();
}

std::shared_ptr<SampleStream> SampleStreams::Find(uint64_t call) {
  absl::MutexLock lock(&mutex_);
  const auto it = streams_.find(call);
  return it == streams_.end() ? nullptr : it->second;
}

void SampleStreams::Ended(uint64_t call) {
  absl::MutexLock lock(&mutex_);
  streams_.erase(call);
}

void SampleStreams::Push(uint64_t call, v1::SampleResponse response) {
  if (const auto stream = Find(call)) stream->Push(std::move(response));
}

void SampleStreams::End(uint64_t call, const absl::Status& status) {
  if (const auto stream = Find(call)) stream->End(status, /*drop_queue=*/false);
}

void SampleStreams::CloseAll(const absl::Status& status) {
  std::vector<std::shared_ptr<SampleStream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = status;
    for (const auto& [call, stream] : streams_) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->End(status, /*drop_queue=*/true);
}

}  // namespace diffmoe::server
