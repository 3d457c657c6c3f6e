// API messages as tables and texts for people. Pure functions; `now_ms` is Unix time.
#pragma once

#include <cstdint>
#include <string>

#include "diffmoe/v1/checkpoint.pb.h"
#include "diffmoe/v1/cluster.pb.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe {

std::string JobsTable(const v1::ListJobsResponse& jobs, int64_t now_ms);
std::string JobText(const v1::Job& job, int64_t now_ms);
// Why the job is in its state: the reason, where the logs of the last failure are, every attempt
// with how it ended, and the newest events.
std::string WhyText(const v1::Job& job, const v1::ListJobEventsResponse& events);
std::string EventsTable(const v1::ListJobEventsResponse& events);
// At most `rows` evenly spaced records, the last among them.
std::string StepRecordsTable(const v1::ListStepRecordsResponse& records, int rows);
std::string CheckpointsTable(const v1::ListCheckpointsResponse& checkpoints, int64_t now_ms);
// The checkpoint with its thresholds per layer and expert; with `tensors` each tensor too.
std::string CheckpointText(const v1::Checkpoint& checkpoint, bool tensors);
// One row per step and MoE layer.
std::string ThresholdsTable(const v1::ListThresholdsResponse& history);
std::string WorkersTable(const v1::ListWorkersResponse& workers, int64_t now_ms);
// "heun, 50 steps", and "2 from 0.2 to 0.8 of the way".
std::string SamplerText(const v1::Receipt& receipt);
std::string GuidanceText(const v1::Receipt& receipt);
std::string ReceiptText(const v1::Receipt& receipt);
// One row per rule and target.
std::string CalibrationText(const v1::Calibration& calibration);

}  // namespace diffmoe
