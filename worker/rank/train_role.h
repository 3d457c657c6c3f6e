// What a training rank does from its assignment to its last checkpoint.
#pragma once

#include "absl/status/status.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/rank_trace.h"

namespace diffmoe {

// Returns OK after the last checkpoint is durable, CANCELLED when this rank or, for a stop with a
// checkpoint, any rank was asked to stop, else the error that ends the attempt; it names file,
// rank, collective or layer. A stop with a checkpoint takes effect at the end of a step that all
// ranks agree on. *last_step is kept up to date for the report of a failure.
absl::Status RunTrainRole(RankLink& link, int64_t* last_step, const RankTrace& trace = {});

}  // namespace diffmoe
