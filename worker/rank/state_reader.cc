#include "worker/rank/state_reader.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"

namespace diffmoe {
namespace {

constexpr int64_t kElementBytes = 4;

absl::Status CheckPlace(const TensorPlace& place, const WantedRun& run) {
  if (place.dtype != "F32") {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor ", run.name, ": expected dtype F32, got ", place.dtype));
  }
  if (place.global_shape != run.shape) {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor ", run.name, ": expected shape [", absl::StrJoin(run.shape, ", "),
                     "], got [", absl::StrJoin(place.global_shape, ", "), "]"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadState(RankLink& link, const CheckpointManifest& manifest,
                       const std::vector<WantedRun>& wanted) {
  std::map<std::string, std::vector<const TensorPlace*>> places;
  for (const TensorPlace& place : manifest.places) places[place.tensor].push_back(&place);
  std::vector<ReadTarget> targets;
  for (const WantedRun& run : wanted) {
    const auto found = places.find(run.name);
    if (found == places.end()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "checkpoint ", manifest.job_id, "@", manifest.step, " has no tensor ", run.name));
    }
    int64_t covered = 0;
    for (const TensorPlace* place : found->second) {
      RETURN_IF_ERROR(CheckPlace(*place, run));
      const int64_t begin = std::max(place->first_element, run.first_element);
      const int64_t end =
          std::min(place->first_element + place->elements, run.first_element + run.elements);
      if (begin >= end) continue;
      covered += end - begin;
      targets.push_back({place->shard,
                         place->shard_offset + (begin - place->first_element) * kElementBytes,
                         (end - begin) * kElementBytes,
                         reinterpret_cast<char*>(run.destination + (begin - run.first_element))});
    }
    if (covered != run.elements) {
      return absl::FailedPreconditionError(
          absl::StrCat("tensor ", run.name, ": expected ", run.elements,
                       " elements, the checkpoint holds ", covered));
    }
  }
  std::sort(targets.begin(), targets.end(), [](const ReadTarget& a, const ReadTarget& b) {
    return std::pair(a.shard, a.offset) < std::pair(b.shard, b.offset);
  });
  return link.ReadExtents(manifest.job_id, manifest.step, targets);
}

}  // namespace diffmoe
