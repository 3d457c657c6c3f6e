// Histories that are read straight from the record store: events, loss records, checkpoints,
// thresholds. Thread-safe.
#pragma once

#include "absl/status/status.h"
#include "core/storage/record_store.h"
#include "diffmoe/internal/v1/records.pb.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe::server {

// NOT_FOUND JOB_NOT_FOUND; INVALID_ARGUMENT for a bad name or number.
absl::Status ReadJobEvents(const RecordStore& records, const v1::ListJobEventsRequest& request,
                           v1::ListJobEventsResponse* response);
absl::Status ReadStepRecords(const RecordStore& records, const v1::ListStepRecordsRequest& request,
                             v1::ListStepRecordsResponse* response);
absl::Status ReadThresholds(const RecordStore& records, const v1::ListThresholdsRequest& request,
                            v1::ListThresholdsResponse* response);

absl::StatusOr<internal::v1::JobRecord> ReadJobRecord(const RecordStore& records,
                                                      const std::string& job_id);

// Index of the i-th of `kept` entries out of `total`, evenly spread, first and last included. kept
// <= total.
size_t ThinnedIndex(size_t i, size_t kept, size_t total);

}  // namespace diffmoe::server
