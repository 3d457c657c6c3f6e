// The one place where exceptions of the Torch tier become Status.
#pragma once

#include <functional>

#include "absl/status/status.h"

namespace diffmoe {

// Runs `body`. CollectiveError -> UNAVAILABLE (a peer is gone or late), NonFiniteScoreError ->
// OUT_OF_RANGE (a loss, gradient or score is not a number), out of memory or threads ->
// RESOURCE_EXHAUSTED, any other exception -> INTERNAL with its first line.
absl::Status CatchErrors(const std::function<absl::Status()>& body);

}  // namespace diffmoe
