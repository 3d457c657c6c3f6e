#include "server/api/sample_streams.h"

#include <optional>
#include <utility>
#include <vector>

#include "server/api/grpc_status.h"
#include "server/api/stream_outbox.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

constexpr int kReport = -1;

// A newer message with the same key makes one that waits pointless: previews by image, reports.
std::optional<int> KeyOf(const v1::SampleResponse& response) {
  if (response.has_progress() || response.has_queued()) return kReport;
  if (response.has_preview()) return response.preview().image().index();
  return std::nullopt;
}

std::optional<int> KeyOf(const v1::CalibrateCheckpointResponse& response) {
  if (response.has_progress() || response.has_queued()) return kReport;
  return std::nullopt;
}

}  // namespace

template <typename Response>
class ResponseStream final : public grpc::ServerWriteReactor<Response>,
                             public std::enable_shared_from_this<ResponseStream<Response>> {
 public:
  ResponseStream(ResponseStreams<Response>* streams, uint64_t call)
      : streams_(streams),
        call_(call),
        outbox_({.max_messages = 8192, .max_bytes = size_t{128} << 20}) {}

  void Begin() { self_ = this->shared_from_this(); }

  void Push(Response response) {
    if (response.has_finished()) {
      // The end follows; what waits to be reported has no meaning any more.
      outbox_.Drop([](const Response& waiting) { return KeyOf(waiting) == kReport; });
      return outbox_.Hold(std::move(response));
    }
    const std::optional<int> key = KeyOf(response);
    OutboxAction action = OutboxAction::kNone;
    if (key) {
      // One that doesn't fit is no loss.
      outbox_.PushReplacing(
          std::move(response), [key](const Response& waiting) { return KeyOf(waiting) == key; },
          &action);
      return Do(action);
    }
    if (outbox_.Push(response, &action)) return Do(action);
    outbox_.Drop([](const Response& waiting) { return KeyOf(waiting).has_value(); });
    if (outbox_.Push(std::move(response), &action)) return Do(action);
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
    if (action == OutboxAction::kWrite) this->StartWrite(&outbox_.in_flight());
    if (action == OutboxAction::kWriteAndFinish) {
      this->StartWriteAndFinish(&outbox_.in_flight(), {}, outbox_.end_status());
    }
    if (action == OutboxAction::kFinish) this->Finish(outbox_.end_status());
  }

  ResponseStreams<Response>* streams_;
  const uint64_t call_;
  StreamOutbox<Response> outbox_;
  std::shared_ptr<ResponseStream<Response>> self_;
};

template <typename Response>
grpc::ServerWriteReactor<Response>* ResponseStreams<Response>::Open(uint64_t call) {
  auto stream = std::make_shared<ResponseStream<Response>>(this, call);
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

template <typename Response>
std::shared_ptr<ResponseStream<Response>> ResponseStreams<Response>::Find(uint64_t call) {
  absl::MutexLock lock(&mutex_);
  const auto it = streams_.find(call);
  return it == streams_.end() ? nullptr : it->second;
}

template <typename Response>
void ResponseStreams<Response>::Ended(uint64_t call) {
  absl::MutexLock lock(&mutex_);
  streams_.erase(call);
}

template <typename Response>
void ResponseStreams<Response>::Push(uint64_t call, Response response) {
  if (const auto stream = Find(call)) stream->Push(std::move(response));
}

template <typename Response>
void ResponseStreams<Response>::End(uint64_t call, const absl::Status& status) {
  if (const auto stream = Find(call)) stream->End(status, /*drop_queue=*/false);
}

template <typename Response>
void ResponseStreams<Response>::CloseAll(const absl::Status& status) {
  std::vector<std::shared_ptr<ResponseStream<Response>>> streams;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = status;
    for (const auto& [call, stream] : streams_) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->End(status, /*drop_queue=*/true);
}

template class ResponseStreams<v1::SampleResponse>;
template class ResponseStreams<v1::CalibrateCheckpointResponse>;

}  // namespace diffmoe::server
