#include "server/api/sample_streams.h"

#include <optional>
#include <utility>
#include <vector>

#include "server/api/grpc_status.h"
#include "server/api/stream_outbox.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

// Keys of messages that are pointless when another one with the key comes after them; previews have
// their image's index.
constexpr int kReport = -1;
constexpr int kStarted = -2;

std::optional<int> KeyOf(const v1::SampleResponse& response) {
  if (response.has_started()) return kStarted;
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

  void Begin() {
    self_ = this->shared_from_this();
    this->StartSendInitialMetadata();
  }

  // Waits for Flush or End.
  void Push(Response response) {
    // The end follows: how far it was has no meaning any more.
    if (response.has_finished()) {
      Drop(kStarted);
      Drop(kReport);
    }
    const std::optional<int> key = KeyOf(response);
    if (key) Drop(*key);
    if (outbox_.Hold(response) || key) return;  // one with a key is no loss when it doesn't fit
    outbox_.Drop([](const Response& waiting) { return KeyOf(waiting).has_value(); });
    if (outbox_.Hold(std::move(response))) return;
    streams_->cancelled_(call_);
    End(MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                  "images were read too slowly: 128 MB are waiting"),
        /*drop_queue=*/true);
  }

  void Flush() { Do(outbox_.Start()); }

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
  void Drop(int key) {
    outbox_.Drop([key](const Response& waiting) { return KeyOf(waiting) == key; });
  }
  void Do(OutboxAction action) {
    if (action == OutboxAction::kWrite) {
      this->StartWrite(&outbox_.in_flight(), outbox_.write_options());
    }
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
  const auto stream = Find(call);
  if (stream == nullptr) return;
  stream->Push(std::move(response));
  if (unflushed_.empty() || unflushed_.back() != stream) unflushed_.push_back(stream);
}

template <typename Response>
void ResponseStreams<Response>::Flush() {
  for (const auto& stream : unflushed_) stream->Flush();
  unflushed_.clear();
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
