// Removes the bytes of checkpoints that retention has dropped, on a thread of its own, so that the
// loop never waits for the disk. What is left when the process ends has no manifest any more and is
// swept at the next start. Its queue is bounded by the number of checkpoints that exist.
// Thread-safe.
#pragma once

#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/checkpoints/checkpoint_store.h"
#include "server/state/effect.h"

namespace diffmoe::server {

class CheckpointDeleter {
 public:
  explicit CheckpointDeleter(CheckpointStore* store);
  // Finishes the deletion that runs, leaves the others.
  ~CheckpointDeleter();
  void Add(DeleteCheckpoint checkpoint);

 private:
  void Run();

  CheckpointStore* store_;
  absl::Mutex mutex_;
  std::deque<DeleteCheckpoint> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace diffmoe::server
