// Reads logical tensors of a committed checkpoint into memory, whatever layout wrote it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

// A run of elements that is wanted, and where to put it. fp32.
struct WantedRun {
  std::string name;
  std::vector<int64_t> shape;
  int64_t first_element = 0;
  int64_t elements = 0;
  float* destination = nullptr;
};

// FAILED_PRECONDITION naming the tensor when it is missing, incomplete, or has another shape or
// dtype.
absl::Status ReadState(RankLink& link, const CheckpointManifest& manifest,
                       const std::vector<WantedRun>& wanted);

}  // namespace diffmoe
