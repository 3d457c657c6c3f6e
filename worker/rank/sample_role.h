// What a sampling rank does: takes requests and calibrations, serves them step by step, sends what
// comes of it.
#pragma once

#include "absl/status/status.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/rank_trace.h"
#include "worker/rank/sample_executor.h"

namespace diffmoe {

// Runs until asked to stop; requests that aren't done then end with UNAVAILABLE, so that another
// sampler takes them. Errors of single requests go to their requesters; the returned error ends the
// rank.
absl::Status RunSampleRole(RankLink& link, const RankTrace& trace = {});
// The same with images of `executor`; calibrations are answered with UNIMPLEMENTED.
absl::Status RunSampleRole(RankLink& link, SampleExecutor& executor);

}  // namespace diffmoe
