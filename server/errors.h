// Errors of the public and private planes. Inside the coordinator an error is an absl::Status that
// carries ErrorDetails as a payload; at the border it becomes a grpc::Status with serialised
// StatusDetails. Pure and thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "diffmoe/v1/error.pb.h"

namespace diffmoe::server {

// An error with a machine-readable reason. `resource` is what it is about, for example
// "jobs/fashion-1".
absl::Status MakeError(absl::StatusCode code, v1::ErrorReason reason, const std::string& message,
                       const std::string& resource = "");

// As above; tells the caller when a retry makes sense.
absl::Status MakeRetryableError(absl::StatusCode code, v1::ErrorReason reason,
                                const std::string& message, int64_t retry_delay_ms);

// INVALID_ARGUMENT with every bad field. The message names the first one and how many there are.
// `violations` isn't empty.
absl::Status MakeViolations(v1::ErrorReason reason, std::vector<v1::FieldViolation> violations);

v1::FieldViolation Violation(const std::string& field, const std::string& description);

// The details that `status` carries; empty ones for a status made elsewhere.
v1::ErrorDetails DetailsOf(const absl::Status& status);

// `status` as a failure of the record store: RESOURCE_EXHAUSTED for a full disk, else INTERNAL;
// reason STORAGE_FAILED.
absl::Status StorageError(const absl::Status& status, const std::string& what);

}  // namespace diffmoe::server
