#include "tests/support/wait.h"

#include "absl/time/clock.h"

namespace diffmoe::test {

bool WaitUntil(absl::Duration limit, absl::FunctionRef<bool()> condition) {
  const absl::Time end = absl::Now() + limit;
  while (!condition()) {
    if (absl::Now() >= end) return condition();
    absl::SleepFor(absl::Milliseconds(10));
  }
  return true;
}

}  // namespace diffmoe::test
