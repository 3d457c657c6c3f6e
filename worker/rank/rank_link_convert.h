// Between the plain structs of rank_link.h and the messages of the private plane. Pure and
// thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"
#include "diffmoe/worker/v1/rank_plane.pb.h"
#include "diffmoe/worker/v1/sampler_plane.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

RankAssignment ToAssignment(const worker::v1::StartRank& start);
worker::v1::GroupId GroupIdOf(const RankAssignment& assignment);

void FillProgress(const ProgressReport& report, v1::Progress* out);
void FillHeartbeat(const Activity::Snapshot& activity, worker::v1::RankHeartbeat* out);
void FillStepRecord(const StepReportRecord& record, v1::StepRecord* out);

// The shard that the concatenation of `runs` makes. Errors: INVALID_ARGUMENT naming the tensor, for
// an unknown dtype or a run outside its tensor.
absl::StatusOr<worker::v1::ShardHeader> ToShardHeader(
    const RankAssignment& assignment, int64_t step, absl::Span<const TensorRun> runs,
    const std::optional<CheckpointSummaryData>& summary);
CheckpointManifest ToCheckpointManifest(const worker::v1::Manifest& manifest);

// Bytes per element of a safetensors dtype; 0 when unknown.
int64_t BytesPerElement(const std::string& dtype);

SampleWork ToSampleWork(const worker::v1::SampleTask& task, absl::Time now);
CalibrateWork ToCalibrateWork(const worker::v1::CalibrateTask& task);
worker::v1::SampleUpdate ToSampleUpdate(const std::string& request_id, SampleUpdateData update);

}  // namespace diffmoe
