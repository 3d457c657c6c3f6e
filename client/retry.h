// When a refused request is worth another try, and after how long.
#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace diffmoe {

// Time after which the coordinator wants to see the request again; nothing (zero) when it refused
// for another reason than load.
absl::Duration RefusalDelay(const absl::Status& status);

// Whether the same request may succeed later: refused for load, or the coordinator or the sampler
// went away.
bool IsTransient(const absl::Status& status);

// The refusal's delay plus up to a quarter of it, so that many callers don't come back at once.
// jitter: [0, 1).
absl::Duration WithJitter(absl::Duration delay, double jitter);

// Delay before try number `attempt` (1: the first repetition): 0.5 s that doubles up to 30 s, at
// least what the refusal asks for, with jitter.
absl::Duration BackoffDelay(const absl::Status& status, int attempt, double jitter);

}  // namespace diffmoe
