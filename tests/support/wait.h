// Waiting for a condition instead of sleeping for a time.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace diffmoe::test {

// Calls `condition` every 10 ms until it returns true (then returns true) or `limit` has passed
// (then returns its last answer). Runs in the calling thread.
bool WaitUntil(absl::Duration limit, absl::FunctionRef<bool()> condition);

}  // namespace diffmoe::test
