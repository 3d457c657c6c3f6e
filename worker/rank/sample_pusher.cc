#include "worker/rank/sample_pusher.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "worker/grpc_status.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr size_t kMaxQueuedBytes = 64u << 20;
constexpr absl::Duration kPushTimeout = absl::Minutes(1);
// gRPC's default limit of a received message, less room for the frame.
constexpr size_t kMaxUpdateBytes = (4u << 20) - 1024;

}  // namespace

SamplePusher::SamplePusher(pb::BulkPlane::StubInterface* stub)
    : stub_(stub), thread_([this] { Run(); }) {}

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
  auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || !queue_.empty(); };
  bool open = true;
  while (open) {
    Waiting next;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&work));
      if (queue_.empty()) break;
      next = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= next.update.ByteSizeLong();
    }
    open = stream->Write(next.update);
    absl::MutexLock lock(&mutex_);
    if (!open) {
      queued_bytes_ += next.update.ByteSizeLong();
      queue_.push_front(std::move(next));
      break;
    }
    carried_ = true;
    if (next.last) {
      open_.erase(next.update.request_id());
      on_stream_.erase(next.update.request_id());
    } else {
      on_stream_.insert(next.update.request_id());
    }
  }
  if (open) stream->WritesDone();
  const absl::Status status = FromGrpc(stream->Finish(), "sample updates");
  Break(status.ok() ? absl::UnavailableError("sample updates: the stream was closed") : status);
}

void SamplePusher::Break(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  context_ = nullptr;
  break_reason_ = absl::IsCancelled(status) ? absl::UnavailableError(status.message()) : status;
  // A stream that broke before it carried anything: a new one would break as well.
  const bool give_up_all = !carried_ || absl::IsAborted(status);
  carried_ = false;
  if (give_up_all) on_stream_ = open_;
  std::deque<Waiting> kept;
  for (Waiting& waiting : queue_) {
    const std::string& id = waiting.update.request_id();
    if (!on_stream_.contains(id)) {
      kept.push_back(std::move(waiting));
      continue;
    }
    queued_bytes_ -= waiting.update.ByteSizeLong();
    if (waiting.last) {
      open_.erase(id);
      on_stream_.erase(id);
    }
  }
  queue_ = std::move(kept);
  for (const std::string& id : on_stream_) {
    open_.erase(id);
    given_up_.insert(id);
  }
  on_stream_.clear();
}

}  // namespace diffmoe
