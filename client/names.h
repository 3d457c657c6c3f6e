// Names of resources as people type them. Pure functions; errors are INVALID_ARGUMENT with expected
// and got.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe {

// "jobs/ID" from "ID" or "jobs/ID".
absl::StatusOr<std::string> JobName(absl::string_view text);

// Checkpoint resource from "JOB" or "JOB@latest" (the newest: "jobs/JOB") or "JOB@step=200"
// ("jobs/JOB/checkpoints/200").
absl::StatusOr<std::string> CheckpointNameFromReference(absl::string_view text);

// Checkpoint resource from a job and "latest" or a step.
absl::StatusOr<std::string> CheckpointName(absl::string_view job, absl::string_view step);

// "3" or "0,1,2" as numbers. "all" is not known here.
absl::StatusOr<std::vector<int32_t>> ParseClasses(absl::string_view text);
// "0.2,0.8".
absl::StatusOr<v1::GuidanceInterval> ParseGuidanceInterval(absl::string_view text);

// "30s", "1m30s", "250ms": more than zero and at most a year. `flag` stands in the error.
absl::StatusOr<absl::Duration> ParsePositiveDuration(absl::string_view flag,
                                                     absl::string_view text);
// A whole number from 0 to 2^64 - 1.
absl::StatusOr<uint64_t> ParseSeed(absl::string_view text);
// Ascending or not: "0.5,1,2".
absl::StatusOr<std::vector<double>> ParseNumbers(absl::string_view flag, absl::string_view text);
// "dynamic", "calibrated", "interval", "gate", in any case.
absl::StatusOr<v1::ThresholdRule> ParseThresholdRule(absl::string_view text);

// The argument list `classes`, each repeated `each` times in a row.
std::vector<int32_t> RepeatClasses(const std::vector<int32_t>& classes, int each);

// "KEY=VALUE" of a --label option; a usage error for anything else.
absl::StatusOr<std::pair<std::string, std::string>> ParseLabel(absl::string_view text);

// Name of a JobState in any case, such as "running"; a usage error that lists the known ones.
absl::StatusOr<v1::JobState> ParseJobState(absl::string_view text);

}  // namespace diffmoe
