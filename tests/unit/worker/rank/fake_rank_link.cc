#include "tests/unit/worker/rank/fake_rank_link.h"

#include <cstring>

#include "core/base/philox.h"
#include "core/model/parameter_list.h"

namespace diffmoe {

FakeRankLink::FakeRankLink(const TrainingConfig& config) {
  manifest_.job_id = "a-1";
  manifest_.step = 10;
  manifest_.world_size = 1;
  uint64_t index = 0;
  for (const ParameterInfo& info : DescribeParameters(config.model)) {
    const size_t first = weights_.size();
    manifest_.places.push_back({.tensor = "ema/" + info.name,
                                .dtype = "F32",
                                .global_shape = info.shape,
                                .first_element = 0,
                                .elements = info.elements(),
                                .shard = 0,
                                .shard_offset = static_cast<int64_t>(first * sizeof(float))});
    weights_.resize(first + static_cast<size_t>(info.elements()));
    const std::span<float> values(weights_.data() + first, weights_.size() - first);
    RandomStream(3, RandomUse::kWeights, index++, 0).Normal(values);
    for (float& value : values) value *= 0.1f;
  }
  for (int64_t block = 0; block < config.model.depth; ++block) {
    if (!config.model.IsMoeBlock(block)) continue;
    manifest_.summary.blocks.push_back(static_cast<int>(block));
    if (config.model.family != Family::kDiffMoe) continue;
    manifest_.summary.experts = static_cast<int>(config.model.experts);
    manifest_.summary.thresholds.insert(manifest_.summary.thresholds.end(),
                                        static_cast<size_t>(config.model.experts), 0.5f);
  }
}

absl::Status FakeRankLink::ReadExtents(const std::string&, int64_t,
                                       absl::Span<const ReadTarget> targets) {
  for (const ReadTarget& target : targets) {
    std::memcpy(target.destination, reinterpret_cast<const char*>(weights_.data()) + target.offset,
                static_cast<size_t>(target.bytes));
  }
  return absl::OkStatus();
}

}  // namespace diffmoe
