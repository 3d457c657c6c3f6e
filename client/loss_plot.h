// The loss curve of a job as a picture.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe {

// Writes a PNG with the loss of each record and its moving average. FAILED_PRECONDITION when there
// are no records; errors of writing as in WritePng.
absl::Status WriteLossPlot(const std::string& path, const std::string& job_id,
                           const v1::ListStepRecordsResponse& records);

}  // namespace diffmoe
