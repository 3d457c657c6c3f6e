#include "tests/benchmarks/sampling_model.h"

#include <span>
#include <stdexcept>

#include "core/base/philox.h"
#include "core/diffusion/calibration.h"
#include "tests/benchmarks/workload.h"

namespace diffmoe::bench {
namespace {

std::vector<std::vector<float>> CalibratedThresholds(CheckpointModel& model) {
  const TrainingConfig& config = model.config();
  const int64_t pixels = config.model.channels * config.model.image_size * config.model.image_size;
  const auto read = [&](int64_t index, float* out) {
    RandomStream(5, RandomUse::kNoise, 0, static_cast<uint32_t>(index))
        .Normal(std::span<float>(out, static_cast<size_t>(pixels)));
    return static_cast<int>(index % config.model.classes);
  };
  Calibration calibration(model.Mode(NumericMode::kExact), model.process(), config.model,
                          MakeCalibrationData(config, 8, 16, read), {1.0});
  while (calibration.targets().empty()) calibration.Step();
  return calibration.targets()[0].thresholds;
}

}  // namespace

SamplingModel::SamplingModel(const std::string& name)
    : config_(MakeWorkload(name).config), link_(config_), executor_(link_) {
  const auto model = executor_.cache().Get({"a-1", 10, 0}, config_, NumericMode::kExact);
  if (!model.ok()) throw std::runtime_error(model.status().ToString());
  thresholds_ = CalibratedThresholds(**model);
}

SampleWork SamplingModel::Work(const std::string& id, int images, int steps,
                               NumericMode mode) const {
  SampleWork work;
  work.request_id = id;
  work.job_id = "a-1";
  work.step = 10;
  work.config = config_;
  for (int i = 0; i < images; ++i) {
    work.classes.push_back(i % static_cast<int>(config_.model.classes));
  }
  work.sampler = "euler";
  work.steps = steps;
  work.guidance = 1.5;
  work.rule = ThresholdRule::kCalibrated;
  work.thresholds = thresholds_;
  work.numeric_mode = mode;
  return work;
}

double SamplingModel::MultiplyAdds() const {
  const ModelConfig& of = config_.model;
  const double depth = static_cast<double>(of.depth), width = static_cast<double>(of.width);
  const double tokens = static_cast<double>(of.tokens_per_sample());
  const double patch = static_cast<double>(of.patch_size * of.patch_size * of.channels);
  const double layers = static_cast<double>(of.depth / of.moe_every);
  return depth * tokens * (12 * width * width + 2 * tokens * width) + depth * 6 * width * width +
         2 * tokens * width * patch +
         layers * tokens * (width * width + 2 * width * static_cast<double>(of.experts));
}

}  // namespace diffmoe::bench
