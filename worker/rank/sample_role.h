// What a sampling rank does: takes requests, advances all of them one denoise step at a time, sends
// images.
#pragma once

#include "absl/status/status.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

// Runs until asked to stop. Errors of single requests go to their requesters; the returned error
// ends the rank.
absl::Status RunSampleRole(RankLink& link);

}  // namespace diffmoe
