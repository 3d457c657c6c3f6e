// The sampling engine's executor on a real model: images of one checkpoint, numeric mode and size
// share one forward, whatever their class, step, sampler, guidance and thresholds; a guided image
// has two rows in it. Models with the batch_topk rule, by which samples see each other, run one
// image at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/rank/model_cache.h"
#include "worker/rank/rank_link.h"
#include "worker/rank/sample_executor.h"

namespace diffmoe {

class ModelExecutor final : public SampleExecutor {
 public:
  // `link` outlives the executor.
  explicit ModelExecutor(RankLink& link) : cache_(link) {}

  // INVALID_ARGUMENT when thresholds, rule or size don't fit the model; errors of ModelCache.
  absl::StatusOr<std::shared_ptr<const SampleModel>> Load(const SampleWork& work) override;
  absl::StatusOr<std::unique_ptr<ImageTask>> Prepare(
      const SampleWork& work, const std::shared_ptr<const SampleModel>& model, int index) override;
  std::vector<absl::Status> Call(absl::Span<ImageTask* const> images) override;
  SampleImage Picture(const ImageTask& image) override;
  // What the picture is made of: [C, H, W] fp32, not cut to [-1, 1].
  at::Tensor Values(const ImageTask& image) const;
  ImageUsage Usage(const ImageTask& image) override;

  ModelCache& cache() { return cache_; }

 private:
  ModelCache cache_;
};

}  // namespace diffmoe
