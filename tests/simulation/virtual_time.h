// The time of a simulated run and what is due in it. Everything happens in tasks, one after the
// other, in the order of their times; tasks of the same time in the order in which they were added.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/base/clock.h"

namespace diffmoe::simulation {

class VirtualTime {
 public:
  using Task = std::function<void()>;

  // Milliseconds since the begin of the run.
  int64_t now_ms() const { return now_ms_; }
  void At(int64_t time_ms, Task task);
  void After(int64_t delay_ms, Task task) { At(now_ms_ + delay_ms, std::move(task)); }
  // Moves to the next task and runs it. False: nothing is due any more.
  bool RunNext();

 private:
  struct Due {
    int64_t time_ms;
    uint64_t number;
    Task task;
  };
  static bool Later(const Due& a, const Due& b) {
    return a.time_ms != b.time_ms ? a.time_ms > b.time_ms : a.number > b.number;
  }

  int64_t now_ms_ = 0;
  uint64_t next_number_ = 0;
  std::vector<Due> heap_;
};

// The clock of one simulated machine.
class SimulatedClock final : public Clock {
 public:
  // `time` and `unix_jump_ms`, the sum of all jumps of the wall clock, must outlive the object.
  SimulatedClock(const VirtualTime* time, const int64_t* unix_jump_ms, int64_t monotonic_begin_ms)
      : time_(time), unix_jump_ms_(unix_jump_ms), monotonic_begin_ms_(monotonic_begin_ms) {}

  int64_t UnixMs() const override {
    return int64_t{1'700'000'000'000} + time_->now_ms() + *unix_jump_ms_;
  }
  int64_t MonotonicMs() const override { return monotonic_begin_ms_ + time_->now_ms(); }

 private:
  const VirtualTime* time_;
  const int64_t* unix_jump_ms_;
  const int64_t monotonic_begin_ms_;
};

}  // namespace diffmoe::simulation
