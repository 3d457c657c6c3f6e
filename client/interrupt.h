// Ctrl-C and SIGTERM as an event that blocking calls can wait for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace diffmoe {

// Thread-safe. Make it before any other thread exists (gRPC starts some): it blocks SIGINT and
// SIGTERM in the calling thread, and later threads inherit that. The destructor restores the signal
// mask.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool triggered() const;
  // Adds an action that a signal starts, on another thread; runs it at once when the signal has
  // come already. Actions must not call back. Returns what RemoveAction takes.
  int64_t AddAction(std::function<void()> action);
  // Returns after a running action has ended.
  void RemoveAction(int64_t id);
  // Waits; false when a signal came first.
  bool WaitFor(absl::Duration duration);
  // The same as a signal. For tests.
  void Trigger();

 private:
  void Run();

  struct SignalState;
  std::unique_ptr<SignalState> state_;
  mutable absl::Mutex mutex_;
  bool triggered_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<int64_t, std::function<void()>> actions_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// An interrupt's action for a scope.
class InterruptAction {
 public:
  InterruptAction(Interrupt* interrupt, std::function<void()> action) : interrupt_(*interrupt) {
    id_ = interrupt_.AddAction(std::move(action));
  }
  ~InterruptAction() { interrupt_.RemoveAction(id_); }
  InterruptAction(const InterruptAction&) = delete;
  InterruptAction& operator=(const InterruptAction&) = delete;

 private:
  Interrupt& interrupt_;
  int64_t id_ = 0;
};

}  // namespace diffmoe
