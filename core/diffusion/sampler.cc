#include "core/diffusion/sampler.h"

#include <ATen/ops/empty.h>

#include <stdexcept>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/philox.h"
#include "core/diffusion/samplers.h"

namespace diffmoe {
namespace {

// Major 0 of an image's stream is the start, 1 + i is step i.
at::Tensor Noise(const ModelConfig& model, uint64_t seed, uint32_t image, uint64_t major) {
  at::Tensor noise = at::empty({1, model.channels, model.image_size, model.image_size},
                               at::TensorOptions().dtype(at::kFloat));
  RandomStream(seed, RandomUse::kSampleNoise, major, image)
      .Normal({noise.data_ptr<float>(), static_cast<size_t>(noise.numel())});
  return noise;
}

}  // namespace

std::unique_ptr<Sampler> MakeSampler(const SamplerOptions& options, ProcessKind process,
                                     const at::Tensor& noise, const StepNoise& step_noise) {
  for (const OptionFault& fault : CheckSamplerOptions(options, process)) {
    throw std::invalid_argument(absl::StrCat(fault.field, ": ", fault.description));
  }
  if (options.kind == SamplerKind::kDopri5) return MakeDopri5Sampler(options, noise);
  if (process == ProcessKind::kRectifiedFlow) return MakeFlowSampler(options, noise, step_noise);
  const DdpmSchedule linear = DdpmSchedule::Linear();
  const std::vector<int64_t> steps = options.kind == SamplerKind::kDpmSolver2M
                                         ? LogSnrSteps(linear, options.steps)
                                         : SpacedSteps(kDdpmSteps, absl::StrCat(options.steps));
  return MakeDdpmSampler(options, linear.Respaced(steps), noise, step_noise);
}

at::Tensor InitialNoise(const ModelConfig& model, uint64_t seed, uint32_t image) {
  return Noise(model, seed, image, 0);
}

StepNoise KeyedStepNoise(const ModelConfig& model, uint64_t seed, uint32_t image) {
  return [model, seed, image](int64_t step) {
    return Noise(model, seed, image, 1 + static_cast<uint64_t>(step));
  };
}

}  // namespace diffmoe
