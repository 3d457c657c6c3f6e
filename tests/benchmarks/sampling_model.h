// Models to sample from in benchmarks: random weights, thresholds that give a capacity of one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/unit/worker/rank/fake_rank_link.h"
#include "worker/rank/model_executor.h"

namespace diffmoe::bench {

class SamplingModel {
 public:
  // "s-e8", "demo", or "small": width 192, depth 6, 16 tokens an image.
  explicit SamplingModel(const std::string& name);

  FakeRankLink& link() { return link_; }
  ModelExecutor& executor() { return executor_; }
  const ModelConfig& model() const { return config_.model; }
  // Of `images` images, with guidance, by euler.
  SampleWork Work(const std::string& id, int images, int steps, NumericMode mode) const;
  // Multiply-adds of one row: linear layers, attention, predictor and gate, patch embedding and
  // heads, at a capacity of one.
  double MultiplyAdds() const;

 private:
  const TrainingConfig config_;
  FakeRankLink link_;
  ModelExecutor executor_;
  std::vector<std::vector<float>> thresholds_;
};

}  // namespace diffmoe::bench
