// Rules of a ReadJobLogsRequest. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe::server {

// INVALID_ARGUMENT with every bad field of those that can be judged without the job.
absl::Status CheckLogRequest(const v1::ReadJobLogsRequest& request);

// INVALID_ARGUMENT unless every rank that is asked for is below `ranks`.
absl::Status CheckLogRanks(const v1::ReadJobLogsRequest& request, int ranks);

// "rank 2", "ranks 0, 1".
std::string RanksText(const std::vector<int>& ranks);

}  // namespace diffmoe::server
