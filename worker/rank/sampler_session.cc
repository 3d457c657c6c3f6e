#include "worker/rank/sampler_session.h"

#include <algorithm>
#include <random>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "core/base/version.h"
#include "worker/backoff.h"
#include "worker/coordinator_channel.h"
#include "worker/grpc_status.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr size_t kMaxWaitingBytes = 64u << 20;
constexpr size_t kFlushBytes = 256u << 10;
// gRPC's default limit of a received message, less room for the frame.
constexpr size_t kMaxMessageBytes = (4u << 20) - 1024;
constexpr absl::Duration kPushTimeout = absl::Minutes(1);
constexpr absl::Duration kCloseTimeout = absl::Seconds(5);
constexpr absl::Duration kFirstRetry = absl::Milliseconds(50);
constexpr absl::Duration kRetryLimit = absl::Seconds(2);

Backoff MakeBackoff() {
  return Backoff(kFirstRetry, kRetryLimit,
                 [engine = std::mt19937_64(std::random_device()())]() mutable {
                   return std::uniform_real_distribution<double>(0, 1)(engine);
                 });
}

}  // namespace

// A hold keeps the stream alive for writes from other threads.
class SamplerSession::Stream final
    : public grpc::ClientBidiReactor<pb::SamplerMessage, pb::SamplerCommand> {
 public:
  explicit Stream(SamplerSession* session) : session_(session) {}

  void Begin(const pb::SamplerMessage* hello) {
    AddHold();
    StartWrite(hello);
    StartRead(&command_);
    StartCall();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return session_->OnReadEnd();
    session_->OnCommand(command_);
    StartRead(&command_);
  }
  void OnWriteDone(bool) override { session_->OnWriteDone(); }
  void OnWritesDoneDone(bool) override { session_->OnWriteDone(); }
  void OnDone(const grpc::Status& status) override { session_->OnStreamDone(status); }

  SamplerSession* const session_;
  pb::SamplerCommand command_;
};

SamplerSession::SamplerSession(std::string address, pb::GroupId group, Events events)
    : address_(std::move(address)), group_(std::move(group)), events_(std::move(events)) {}

SamplerSession::~SamplerSession() {
  if (thread_.joinable()) Close();
}

absl::Status SamplerSession::Start() {
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no thread for the session with the coordinator: ", error.what()));
  }
  return absl::OkStatus();
}

void SamplerSession::Close() {
  Flush();
  Stream* half_open = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
    auto sent = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stream_ == nullptr || read_ended_ || (waiting_.empty() && !writing_);
    };
    mutex_.AwaitWithTimeout(absl::Condition(&sent), kCloseTimeout);
    if (CanWrite()) {
      writing_ = true;
      half_open = stream_;
    }
  }
  if (half_open != nullptr) half_open->StartWritesDone();
  {
    absl::MutexLock lock(&mutex_);
    auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stream_ == nullptr; };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&over), kCloseTimeout)) context_->TryCancel();
  }
  thread_.join();
}

absl::Status SamplerSession::Push(pb::SampleUpdate update, bool last) {
  const size_t bytes = update.ByteSizeLong();
  if (bytes > kMaxMessageBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("sample update of ", bytes, " bytes, at most ",
                                                     kMaxMessageBytes, " fit into a message"));
  }
  bool full = false;
  {
    absl::MutexLock lock(&mutex_);
    auto room = [this, bytes]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stream_ == nullptr || waiting_.empty() || waiting_bytes_ + bytes <= kMaxWaitingBytes;
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&room), kPushTimeout)) {
      return absl::UnavailableError(absl::StrCat("sample updates: no room in the queue for ",
                                                 absl::FormatDuration(kPushTimeout)));
    }
    const std::string& id = update.request_id();
    if (stream_ == nullptr || (!id.empty() && !open_.contains(id))) {
      return absl::UnavailableError("the session with which the request came is over");
    }
    if (last) open_.erase(id);
    waiting_bytes_ += bytes;
    waiting_.push_back(std::move(update));
    full = waiting_bytes_ >= kFlushBytes;
  }
  if (full) Flush();
  return absl::OkStatus();
}

void SamplerSession::Flush() {
  Stream* stream = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (!CanWrite() || waiting_.empty()) return;
    TakeBatch();
    stream = stream_;
  }
  stream->StartWrite(&in_flight_);
}

void SamplerSession::TakeBatch() {
  in_flight_.Clear();
  pb::SampleUpdates* batch = in_flight_.mutable_updates();
  size_t batch_bytes = 0;
  while (!waiting_.empty()) {
    const size_t bytes = waiting_.front().ByteSizeLong();
    constexpr size_t kFrame = 8;  // of an update in its message
    if (batch_bytes > 0 && batch_bytes + bytes + kFrame > kMaxMessageBytes) break;
    batch_bytes += bytes + kFrame;
    waiting_bytes_ -= bytes;
    *batch->add_updates() = std::move(waiting_.front());
    waiting_.pop_front();
  }
  writing_ = true;
}

void SamplerSession::OnCommand(const pb::SamplerCommand& command) {
  {
    absl::MutexLock lock(&mutex_);
    if (command.has_sample_task()) open_.insert(command.sample_task().request_id());
    if (command.has_calibrate_task()) open_.insert(command.calibrate_task().request_id());
    if (command.has_cancel_sample()) open_.erase(command.cancel_sample().request_id());
  }
  events_.command(command);
}

bool SamplerSession::ReleaseHold() {
  return read_ended_ && !writing_ && std::exchange(hold_, false);
}

void SamplerSession::OnReadEnd() {
  Stream* released = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    read_ended_ = true;
    if (ReleaseHold()) released = stream_;
  }
  if (released != nullptr) released->RemoveHold();
}

void SamplerSession::OnWriteDone() {
  Stream* released = nullptr;
  Stream* next = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (ReleaseHold()) {
      released = stream_;
    } else if (CanWrite() && !waiting_.empty()) {
      TakeBatch();
      next = stream_;
    }
  }
  if (released != nullptr) released->RemoveHold();
  if (next != nullptr) next->StartWrite(&in_flight_);
}

void SamplerSession::OnStreamDone(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  stream_status_ = status;
  done_ = true;
}

absl::Status SamplerSession::RunStream() {
  const auto stub = pb::SamplerPlane::NewStub(OpenCoordinatorChannel(address_));
  grpc::ClientContext context;
  Stream stream(this);
  stub->async()->Session(&context, &stream);
  bool closing = false;
  {
    absl::MutexLock lock(&mutex_);
    closing = closing_;
    stream_ = &stream;
    context_ = &context;
    writing_ = true;
    hold_ = true;
    read_ended_ = false;
    done_ = false;
    in_flight_.Clear();
    in_flight_.mutable_hello()->set_protocol_version(kProtocolVersion);
    *in_flight_.mutable_hello()->mutable_group() = group_;
  }
  stream.Begin(&in_flight_);
  if (closing) context.TryCancel();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&done_));
  stream_ = nullptr;
  context_ = nullptr;
  lost_work_ = !open_.empty();
  open_.clear();
  waiting_.clear();
  waiting_bytes_ = 0;
  if (stream_status_.ok()) return absl::UnavailableError("the coordinator closed the session");
  return FromGrpc(stream_status_, absl::StrCat("session with the coordinator ", address_));
}

void SamplerSession::Run() {
  Backoff backoff = MakeBackoff();
  while (true) {
    const absl::Time begin = absl::Now();
    const absl::Status status = RunStream();
    {
      absl::MutexLock lock(&mutex_);
      if (closing_) return;
    }
    if (lost_work_) events_.lost();
    if (absl::IsAborted(status) || absl::IsFailedPrecondition(status)) {
      return events_.refused(status);
    }
    if (absl::Now() - begin > kRetryLimit) backoff.Reset();
    const absl::Duration delay = backoff.Next();
    LogWarning("rank", "no session with the coordinator",
               {{"error", std::string(status.message())},
                {"next_attempt_in", absl::FormatDuration(delay)}});
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&closing_), delay);
    if (closing_) return;
  }
}

}  // namespace diffmoe
