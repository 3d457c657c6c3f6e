// Decides what a write reactor does next: at most one write is outstanding, Finish comes once and
// after it. The reactor carries the action out after the call, without any lock:
//   StartWrite(&outbox.in_flight(), outbox.write_options())        for kWrite
//   StartWriteAndFinish(&outbox.in_flight(), {}, end_status())     for kWriteAndFinish
//   Finish(outbox.end_status())                                    for kFinish
//
// With write_options the initial metadata must be on its way before the first write, which would
// wait with it for the message behind.
//
// Thread safety: all methods from any thread; of several callers each action goes to exactly one.
// in_flight() and end_status() may be read by the one who got an action.
#pragma once

#include <grpcpp/impl/codegen/call_op_set.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace diffmoe::server {

enum class OutboxAction { kNone, kWrite, kWriteAndFinish, kFinish };

template <typename Message>
class StreamOutbox {
 public:
  struct Options {
    size_t max_messages = 1024;
    size_t max_bytes = size_t{64} << 20;
  };
  explicit StreamOutbox(Options options) : options_(options) {}

  // False when the queue is full; nothing changes then. A message for an ended stream is dropped.
  bool Push(Message message, OutboxAction* action) {
    *action = OutboxAction::kNone;
    const size_t bytes = message.ByteSizeLong();
    absl::MutexLock lock(&mutex_);
    if (ending_) return true;
    if (queue_.size() >= options_.max_messages || bytes_ + bytes > options_.max_bytes) return false;
    bytes_ += bytes;
    queue_.push_back(std::move(message));
    *action = Next();
    return true;
  }

  // As Push, but the message waits for Start, the next Push or End.
  bool Hold(Message message) {
    const size_t bytes = message.ByteSizeLong();
    absl::MutexLock lock(&mutex_);
    if (ending_) return true;
    if (queue_.size() >= options_.max_messages || bytes_ + bytes > options_.max_bytes) return false;
    bytes_ += bytes;
    queue_.push_back(std::move(message));
    return true;
  }
  OutboxAction Start() {
    absl::MutexLock lock(&mutex_);
    return Next();
  }

  // At most one message waits: `merge` puts a newer one into it. False when it would become larger
  // than max_bytes; nothing changes then.
  bool Merge(Message message, const std::function<Message(Message waiting, Message newer)>& merge,
             OutboxAction* action) {
    *action = OutboxAction::kNone;
    absl::MutexLock lock(&mutex_);
    if (ending_) return true;
    if (bytes_ + message.ByteSizeLong() > options_.max_bytes) return false;
    if (!queue_.empty()) {
      message = merge(std::move(queue_.front()), std::move(message));
      ClearQueue();
    }
    bytes_ = message.ByteSizeLong();
    queue_.push_back(std::move(message));
    *action = Next();
    return true;
  }

  // Drops the waiting messages that `unwanted` names. Another message must come: the transport may
  // keep one back for those that are dropped.
  void Drop(const std::function<bool(const Message&)>& unwanted) {
    absl::MutexLock lock(&mutex_);
    std::erase_if(queue_, [&](const Message& waiting) {
      if (!unwanted(waiting)) return false;
      bytes_ -= std::min(bytes_, waiting.ByteSizeLong());
      return true;
    });
  }

  // Ends the stream once what is queued is written; `drop_queue`: at once.
  OutboxAction End(grpc::Status status, bool drop_queue) {
    absl::MutexLock lock(&mutex_);
    if (!ending_) {
      ending_ = true;
      end_status_ = std::move(status);
    }
    if (drop_queue) ClearQueue();
    return Next();
  }

  // The write that was in flight is done; after a failed one the peer is gone.
  OutboxAction WriteDone(bool ok) {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) {
      ClearQueue();
      if (!ending_) {
        ending_ = true;
        end_status_ = grpc::Status(grpc::StatusCode::CANCELLED, "the peer is gone");
      }
    }
    return Next();
  }

  const Message& in_flight() const { return in_flight_; }
  // The transport may keep a message back while another one waits behind it.
  grpc::WriteOptions write_options() const {
    grpc::WriteOptions options;
    if (more_) options.set_buffer_hint();
    return options;
  }
  const grpc::Status& end_status() const { return end_status_; }

 private:
  OutboxAction Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return OutboxAction::kNone;
    if (!queue_.empty()) {
      in_flight_ = std::move(queue_.front());
      queue_.pop_front();
      bytes_ -= std::min(bytes_, in_flight_.ByteSizeLong());
      writing_ = true;
      finished_ = ending_ && queue_.empty();
      more_ = !queue_.empty();
      return finished_ ? OutboxAction::kWriteAndFinish : OutboxAction::kWrite;
    }
    if (!ending_) return OutboxAction::kNone;
    finished_ = true;
    return OutboxAction::kFinish;
  }

  void ClearQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    queue_.clear();
    bytes_ = 0;
  }

  const Options options_;
  mutable absl::Mutex mutex_;
  std::deque<Message> queue_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  Message in_flight_;
  bool more_ = false;  // as in_flight_, of whoever has an action
  grpc::Status end_status_;
};

}  // namespace diffmoe::server
