#include "worker/rank/sample_pusher.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "worker/grpc_status.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr size_t kMaxQueuedBytes = 64u << 20;
constexpr size_t kMaxUnconfirmed = 1024;
constexpr absl::Duration kPushTimeout = absl::Minutes(1);
// A stream stays so long after its last request, so that the next one finds it open.
constexpr absl::Duration kLinger = absl::Seconds(1);
// gRPC's default limit of a received message, less room for the frame.
constexpr size_t kMaxUpdateBytes = (4u << 20) - 1024;

}  // namespace

SamplePusher::SamplePusher(pb::BulkPlane::StubInterface* stub, pb::GroupId group)
    : stub_(stub), group_(std::move(group)), thread_([this] { Run(); }) {}

SamplePusher::~SamplePusher() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    if (!mutex_.AwaitWithTimeout(absl::Condition(&finished_), absl::Seconds(5)) &&
        context_ != nullptr) {
      context_->TryCancel();
    }
  }
  thread_.join();
}

absl::Status SamplePusher::Push(pb::SampleUpdate update, bool last) {
  const size_t bytes = update.ByteSizeLong();
  if (bytes > kMaxUpdateBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("sample update of ", bytes, " bytes, at most ",
                                                     kMaxUpdateBytes, " fit into a message"));
  }
  absl::MutexLock lock(&mutex_);
  auto ready = [this, bytes, &update]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ || queue_.empty() || queued_bytes_ + bytes <= kMaxQueuedBytes ||
           given_up_.contains(update.request_id()) || absl::IsAborted(break_reason_);
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ready), kPushTimeout)) {
    return absl::UnavailableError(absl::StrCat("sample updates: no room in the queue for ",
                                               absl::FormatDuration(kPushTimeout)));
  }
  if (closed_) return absl::CancelledError("the rank is closing its link");
  if (absl::IsAborted(break_reason_)) return break_reason_;
  if (given_up_.contains(update.request_id())) {
    if (last) given_up_.erase(update.request_id());
    return break_reason_;
  }
  open_.insert(update.request_id());
  queued_bytes_ += bytes;
  queue_.push_back({std::move(update), last});
  return absl::OkStatus();
}

void SamplePusher::Run() {
  auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || !queue_.empty(); };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&work));
      if (queue_.empty() || absl::IsAborted(break_reason_)) {
        finished_ = true;
        return;
      }
    }
    RunStream();
  }
}

void SamplePusher::RunStream() {
  grpc::ClientContext context;
  {
    absl::MutexLock lock(&mutex_);
    context_ = &context;
  }
  pb::PushSamplesResponse response;
  auto stream = stub_->PushSamples(&context, &response);
  const bool whole = WriteAll(*stream);
  if (whole) stream->WritesDone();
  const absl::Status status = FromGrpc(stream->Finish(), "sample updates");
  if (!whole || !status.ok()) {
    Break(status.ok() ? absl::UnavailableError("sample updates: the stream was closed") : status);
    return;
  }
  absl::MutexLock lock(&mutex_);
  context_ = nullptr;
  carried_ = false;
  on_stream_.clear();
}

bool SamplePusher::WriteAll(grpc::ClientWriterInterface<pb::SampleUpdate>& stream) {
  auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || !queue_.empty(); };
  while (true) {
    Waiting next;
    grpc::WriteOptions options;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&work),
                              open_.empty() ? kLinger : absl::InfiniteDuration());
      if (queue_.empty()) return true;
      next = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= next.update.ByteSizeLong();
      // What waits goes in the same packet.
      if (!queue_.empty()) options.set_buffer_hint();
    }
    const bool written = stream.Write(next.update, options);
    absl::MutexLock lock(&mutex_);
    if (!written) {
      queued_bytes_ += next.update.ByteSizeLong();
      queue_.push_front(std::move(next));
      return false;
    }
    carried_ = true;
    if (next.notice) continue;
    const std::string& id = next.update.request_id();
    on_stream_.insert(id);
    if (!next.last) continue;
    open_.erase(id);
    if (on_stream_.size() > kMaxUnconfirmed) on_stream_.erase(id);
  }
}

void SamplePusher::Break(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  context_ = nullptr;
  break_reason_ = absl::IsCancelled(status) ? absl::UnavailableError(status.message()) : status;
  // When a stream breaks before it has carried anything, the next one would break as well.
  const bool hopeless = !carried_ || absl::IsAborted(status);
  carried_ = false;
  const absl::flat_hash_set<std::string> lost = hopeless ? open_ : on_stream_;
  on_stream_.clear();
  std::deque<Waiting> kept;
  for (Waiting& waiting : queue_) {
    const std::string& id = waiting.update.request_id();
    if (waiting.notice ? !hopeless : !lost.contains(id)) {
      kept.push_back(std::move(waiting));
      continue;
    }
    queued_bytes_ -= waiting.update.ByteSizeLong();
    if (waiting.last) open_.erase(id);
  }
  queue_ = std::move(kept);
  for (const std::string& id : lost) {
    if (open_.erase(id) != 0) given_up_.insert(id);
    if (hopeless) continue;
    Waiting notice{.update = {}, .last = true, .notice = true};
    notice.update.set_request_id(id);
    *notice.update.mutable_group() = group_;
    notice.update.mutable_error()->set_status_code(
        static_cast<int>(absl::StatusCode::kUnavailable));
    notice.update.mutable_error()->set_message("the way from the sampler to the coordinator broke");
    queued_bytes_ += notice.update.ByteSizeLong();
    queue_.push_back(std::move(notice));
  }
}

}  // namespace diffmoe
