// Runs a function on R ranks that form a real group, one thread each.
#pragma once

#include <functional>

#include "core/parallel/collectives.h"
#include "core/parallel/shared_memory_collectives.h"

namespace diffmoe {

using RankBody = std::function<void(Collectives&)>;

// As training does it. Rethrows the first exception of a rank.
void RunRanks(int world_size, const RankBody& body, const CollectivesOptions& options = {});
// Over sockets.
void RunRanksOverGloo(int world_size, const RankBody& body);

}  // namespace diffmoe
