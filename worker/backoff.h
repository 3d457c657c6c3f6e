// Delays between attempts: each up to twice the one before, up to a limit, with jitter so that many
// workers don't come back at the same moment. Not thread-safe.
#pragma once

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/time/time.h"

namespace diffmoe {

class Backoff {
 public:
  // `random` gives numbers in [0, 1).
  Backoff(absl::Duration first, absl::Duration limit, std::function<double()> random)
      : first_(first), limit_(limit), random_(std::move(random)), next_(first) {}

  // Between half of and the full delay whose turn it is.
  absl::Duration Next() {
    const absl::Duration delay = next_ * (0.5 + 0.5 * random_());
    next_ = std::min(next_ * 2, limit_);
    return delay;
  }
  void Reset() { next_ = first_; }

 private:
  const absl::Duration first_;
  const absl::Duration limit_;
  const std::function<double()> random_;
  absl::Duration next_;
};

}  // namespace diffmoe
