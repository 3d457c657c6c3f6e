// Commands on their way to one rank's session: its start and stops. Thread-safe.
#pragma once

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "diffmoe/worker/v1/rank_plane.pb.h"

namespace diffmoe {

class CommandQueue {
 public:
  void Push(worker::v1::RankCommand command) {
    absl::MutexLock lock(&mutex_);
    if (!closed_) commands_.push_back(std::move(command));
  }

  // Waits for a command; false once the queue is closed.
  bool Next(worker::v1::RankCommand* command) {
    absl::MutexLock lock(&mutex_);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return closed_ || !commands_.empty();
    };
    mutex_.Await(absl::Condition(&ready));
    if (closed_) return false;
    *command = std::move(commands_.front());
    commands_.pop_front();
    return true;
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

 private:
  absl::Mutex mutex_;
  std::deque<worker::v1::RankCommand> commands_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace diffmoe
