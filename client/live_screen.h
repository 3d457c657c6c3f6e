// A screen that is drawn again and again: `diffmoe top`, `diffmoe metrics -w`.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/context.h"
#include "client/interrupt.h"

namespace diffmoe {

// Draws what `frame` returns, then again every `interval`, on a terminal over the last one,
// elsewhere one below the other. Ends after `frames` frames (0: never), when `frame` fails (with
// its error; a coordinator that is away is waited for), or when interrupted (exit code 0). `last`
// says that there is nothing more to see.
absl::StatusOr<int> RunLiveScreen(
    const Context& context, Interrupt* interrupt, absl::Duration interval, int frames,
    const std::function<absl::StatusOr<std::string>(bool* last)>& frame);

}  // namespace diffmoe
