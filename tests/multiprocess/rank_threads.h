// Runs a function on R ranks that form a real Gloo group over loopback, one thread each.
#pragma once

#include <functional>

#include "core/parallel/collectives.h"

namespace diffmoe {

// Rethrows the first exception of a rank. `world_size` 1 uses local collectives.
void RunRanks(int world_size, const std::function<void(Collectives&)>& body);

}  // namespace diffmoe
