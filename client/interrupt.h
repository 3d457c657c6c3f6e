// Ctrl-C and SIGTERM as an event that blocking calls can wait for.
#pragma once

#include <functional>
#include <memory>
#include <thread>

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
  // Sets the action that a signal starts, on another thread; at once when the signal has come
  // already. One at a time; an empty function takes it away and returns after a running action has
  // ended.
  void SetAction(std::function<void()> action);
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
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// Sets an interrupt's action for a scope.
class InterruptAction {
 public:
  InterruptAction(Interrupt* interrupt, std::function<void()> action) : interrupt_(*interrupt) {
    interrupt_.SetAction(std::move(action));
  }
  ~InterruptAction() { interrupt_.SetAction({}); }
  InterruptAction(const InterruptAction&) = delete;
  InterruptAction& operator=(const InterruptAction&) = delete;

 private:
  Interrupt& interrupt_;
};

}  // namespace diffmoe
