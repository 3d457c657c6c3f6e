#include "server/checkpoint_deleter.h"

#include <utility>

#include "core/base/kill_point.h"
#include "core/base/log.h"

namespace diffmoe::server {

CheckpointDeleter::CheckpointDeleter(CheckpointStore* store)
    : store_(store), thread_([this] { Run(); }) {}

CheckpointDeleter::~CheckpointDeleter() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void CheckpointDeleter::Add(DeleteCheckpoint checkpoint) {
  absl::MutexLock lock(&mutex_);
  queue_.push_back(std::move(checkpoint));
}

void CheckpointDeleter::Run() {
  while (true) {
    DeleteCheckpoint next;
    {
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !queue_.empty();
      };
      absl::MutexLock lock(&mutex_, absl::Condition(&ready));
      if (stopping_) return;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    KillPoint("deleter.before_delete");
    const absl::Status status = store_->DeleteCheckpoint(next.job_id, next.step, next.epoch);
    KillPoint("deleter.deleted");
    if (!status.ok()) {
      LogWarning(
          "checkpoints", "the bytes of a dropped checkpoint could not be removed",
          {{"checkpoint", CheckpointName(next.job_id, next.step)}, {"error", status.ToString()}});
    }
  }
}

}  // namespace diffmoe::server
