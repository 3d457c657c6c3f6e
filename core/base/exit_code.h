// Exit codes of every program of the project. Frozen: scripts rely on them.
#pragma once

#include "absl/status/status.h"

namespace diffmoe {

enum ExitCode : int {
  kExitOk = 0,
  kExitInternal = 1,
  kExitUsage = 2,
  kExitInvalidSpec = 3,
  kExitNotFound = 4,
  kExitPermission = 5,
  kExitConflict = 6,
  kExitQuota = 7,
  kExitUnavailable = 8,
  kExitDeadline = 9,
  kExitJobFailed = 10,
  kExitCancelled = 11,
  kExitCorrupt = 20,
  kExitInterrupted = 130,
};

inline ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kExitInvalidSpec;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kExitPermission;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kFailedPrecondition:
      return kExitConflict;
    case absl::StatusCode::kResourceExhausted:
      return kExitQuota;
    case absl::StatusCode::kUnavailable:
      return kExitUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    case absl::StatusCode::kCancelled:
      return kExitCancelled;
    case absl::StatusCode::kDataLoss:
      return kExitCorrupt;
    default:
      return kExitInternal;
  }
}

}  // namespace diffmoe
