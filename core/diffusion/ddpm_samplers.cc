#include <ATen/ops/full.h>

#include <cmath>
#include <utility>

#include "core/diffusion/ddpm.h"
#include "core/diffusion/sampler.h"

namespace diffmoe {
namespace {

class DdpmSampler : public Sampler {
 public:
  DdpmSampler(const SamplerOptions& options, DdpmSchedule schedule, const at::Tensor& noise)
      : options_(options), schedule_(std::move(schedule)), x_(noise), left_(schedule_.size()) {}

  bool done() const override { return left_ == 0; }
  NetworkCall next() const override {
    return {x_, static_cast<double>(schedule_.timestep_map[static_cast<size_t>(left_ - 1)])};
  }
  void Feed(const at::Tensor& output) override {
    const at::Tensor step = at::full({x_.size(0)}, left_ - 1, at::TensorOptions().dtype(at::kLong));
    const DdpmPrediction prediction =
        Predict(schedule_, VarianceOf(output, x_), output, x_, step, options_.clip_denoised);
    expected_ = prediction.x0;
    x_ = Advance(prediction, step);
    --left_;
  }
  const at::Tensor& x() const override { return x_; }
  at::Tensor expected() const override { return expected_.defined() ? expected_ : x_; }
  int64_t steps_done() const override { return schedule_.size() - left_; }
  double progress() const override {
    return static_cast<double>(steps_done()) / static_cast<double>(schedule_.size());
  }

 protected:
  virtual at::Tensor Advance(const DdpmPrediction& prediction, const at::Tensor& step) = 0;

  const SamplerOptions options_;
  const DdpmSchedule schedule_;
  at::Tensor x_, expected_;
  int64_t left_;  // steps that are still to be done; the next one is left_ - 1
};

class AncestralSampler final : public DdpmSampler {
 public:
  AncestralSampler(const SamplerOptions& options, DdpmSchedule schedule, const at::Tensor& noise,
                   StepNoise step_noise)
      : DdpmSampler(options, std::move(schedule), noise), step_noise_(std::move(step_noise)) {}

 private:
  at::Tensor Advance(const DdpmPrediction& prediction, const at::Tensor& step) override {
    return left_ == 1 ? prediction.mean
                      : AncestralStep(prediction, step, step_noise_(steps_done()));
  }
  const StepNoise step_noise_;
};

class DdimSampler final : public DdpmSampler {
 public:
  DdimSampler(const SamplerOptions& options, DdpmSchedule schedule, const at::Tensor& noise,
              StepNoise step_noise)
      : DdpmSampler(options, std::move(schedule), noise), step_noise_(std::move(step_noise)) {}

 private:
  at::Tensor Advance(const DdpmPrediction& prediction, const at::Tensor& step) override {
    const bool noisy = options_.eta > 0 && left_ > 1;
    return DdimStep(schedule_, prediction.x0, x_, step, options_.eta,
                    noisy ? step_noise_(steps_done()) : at::Tensor());
  }
  const StepNoise step_noise_;
};

// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2): the ODE in half the logarithm of the
// signal-to-noise ratio, with the predicted image extrapolated linearly from the last two steps.
// The first step and the one to zero noise, which is infinitely long, are of order 1.
class DpmSolver2MSampler final : public DdpmSampler {
 public:
  using DdpmSampler::DdpmSampler;

 private:
  at::Tensor Advance(const DdpmPrediction& prediction, const at::Tensor&) override {
    const int64_t step = left_ - 1;
    if (step == 0) return prediction.x0;
    const size_t from = static_cast<size_t>(step), to = from - 1;
    const double length = schedule_.HalfLogSnr(step - 1) - schedule_.HalfLogSnr(step);
    at::Tensor image = prediction.x0;
    if (previous_.defined()) {
      const double reach = length / (2 * previous_length_);
      image = image.mul(1 + reach).sub(previous_, reach);
    }
    previous_ = prediction.x0;
    previous_length_ = length;
    const double keep =
        schedule_.sqrt_one_minus_alphas_cumprod[to] / schedule_.sqrt_one_minus_alphas_cumprod[from];
    return x_.mul(keep).sub(image, schedule_.sqrt_alphas_cumprod[to] * std::expm1(-length));
  }

  at::Tensor previous_;  // the image predicted one step before
  double previous_length_ = 0;
};

}  // namespace

std::unique_ptr<Sampler> MakeDdpmSampler(const SamplerOptions& options, DdpmSchedule schedule,
                                         const at::Tensor& noise, const StepNoise& step_noise) {
  if (options.kind == SamplerKind::kAncestral) {
    return std::make_unique<AncestralSampler>(options, std::move(schedule), noise, step_noise);
  }
  if (options.kind == SamplerKind::kDpmSolver2M) {
    return std::make_unique<DpmSolver2MSampler>(options, std::move(schedule), noise);
  }
  return std::make_unique<DdimSampler>(options, std::move(schedule), noise, step_noise);
}

}  // namespace diffmoe
