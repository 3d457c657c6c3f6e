// absl::Mutex can look for deadlocks at every lock, and Debian's library is built to do so.
// Programs turn it off when they start; tests keep it.
#pragma once

#include "absl/synchronization/mutex.h"

namespace diffmoe {

inline void TurnOffMutexChecks() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

}  // namespace diffmoe
