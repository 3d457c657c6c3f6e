// Time behind an interface, so that tests can move it by hand.
#pragma once

#include <cstdint>

namespace diffmoe {

class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since the Unix epoch. May jump; only for display and records.
  virtual int64_t UnixMs() const = 0;
  // Milliseconds that never go back. For leases, deadlines and durations.
  virtual int64_t MonotonicMs() const = 0;
};

// The machine's clock. Thread-safe.
class SystemClock final : public Clock {
 public:
  int64_t UnixMs() const override;
  int64_t MonotonicMs() const override;
};

}  // namespace diffmoe
