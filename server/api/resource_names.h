// Resource names of the public API, and page tokens. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace diffmoe::server {

// "jobs/{id}" -> id. INVALID_ARGUMENT naming `field` and what was expected.
absl::StatusOr<std::string> ParseJobName(const std::string& name,
                                         const std::string& field = "name");

struct CheckpointRef {
  std::string job_id;
  std::optional<int64_t> step;  // absent: the newest
};
// "jobs/{id}/checkpoints/{step}" or ".../latest"; with `job_alone`, "jobs/{id}" means the newest,
// too.
absl::StatusOr<CheckpointRef> ParseCheckpointName(const std::string& name, const std::string& field,
                                                  bool job_alone);

// A page token is opaque to clients: it holds the number of the last entry of the page before.
std::string MakePageToken(int64_t last);
// INVALID_ARGUMENT for a token that MakePageToken didn't make.
absl::StatusOr<int64_t> ParsePageToken(const std::string& token);

// `size` as a page size: 0 is `default_size`, more than `max_size` is max_size. INVALID_ARGUMENT
// when negative.
absl::StatusOr<int> PageSize(int size, int default_size, int max_size, const std::string& field);

}  // namespace diffmoe::server
