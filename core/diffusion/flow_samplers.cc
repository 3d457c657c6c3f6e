#include <algorithm>
#include <cmath>
#include <utility>

#include "core/diffusion/rectified_flow.h"
#include "core/diffusion/samplers.h"

namespace diffmoe {
namespace {

class GridSampler : public Sampler {
 public:
  GridSampler(const at::Tensor& noise, int64_t steps) : x_(noise), steps_(steps) {}

  bool done() const override { return step_ == steps_; }
  const at::Tensor& x() const override { return x_; }
  at::Tensor expected() const override { return expected_.defined() ? expected_ : x_; }
  int64_t steps_done() const override { return step_; }
  double progress() const override {
    return static_cast<double>(step_) / static_cast<double>(steps_);
  }

 protected:
  double TimeOf(int64_t step) const {
    return static_cast<double>(step) / static_cast<double>(steps_);
  }
  // The answer to a call at (x, t), from where the straight way leads to x + (1 - t) v.
  at::Tensor Velocity(const at::Tensor& output, const at::Tensor& x, double t) {
    const at::Tensor velocity = output.narrow(1, 0, x_.size(1));
    expected_ = x.add(velocity, 1 - t);
    return velocity;
  }

  at::Tensor x_, expected_;
  const int64_t steps_;
  int64_t step_ = 0;
};

class EulerSampler final : public GridSampler {
 public:
  using GridSampler::GridSampler;
  NetworkCall next() const override { return {x_, TimeOf(step_)}; }
  void Feed(const at::Tensor& output) override {
    x_ = EulerStep(x_, Velocity(output, x_, TimeOf(step_)), steps_);
    ++step_;
  }
};

// Euler to the end of the step, then the mean of both ends' velocities. Order 2.
class HeunSampler final : public GridSampler {
 public:
  using GridSampler::GridSampler;
  NetworkCall next() const override {
    if (first_.defined()) return {predicted_, TimeOf(step_ + 1)};
    return {x_, TimeOf(step_)};
  }
  void Feed(const at::Tensor& output) override {
    const NetworkCall call = next();
    const at::Tensor velocity = Velocity(output, call.x, call.t);
    if (!first_.defined()) {
      first_ = velocity;
      predicted_ = EulerStep(x_, velocity, steps_);
      return;
    }
    x_ = EulerStep(x_, first_.add(velocity).mul(0.5), steps_);
    first_ = at::Tensor();
    ++step_;
  }

 private:
  at::Tensor first_, predicted_;
};

// The SDE with the flow's marginals of SiT (Ma et al., arXiv 2401.08740), in the form published
// with it: dx = (v + D s) dt + sqrt(2 D) dW with D = 1 - t and the score s = (t v - x) / (1 - t),
// so the drift is (1 + t) v - x. Its last step, 0.04 long (longer when the grid is coarser), has no
// noise.
class EulerMaruyamaSampler final : public GridSampler {
 public:
  EulerMaruyamaSampler(const at::Tensor& noise, int64_t steps, StepNoise step_noise)
      : GridSampler(noise, steps), step_noise_(std::move(step_noise)) {}
  NetworkCall next() const override { return {x_, Time()}; }
  void Feed(const at::Tensor& output) override {
    const double t = Time();
    const bool last = step_ + 1 == steps_;
    const double length = last ? LastLength() : Length();
    const at::Tensor drift = Velocity(output, x_, t).mul(1 + t).sub(x_);
    x_ = x_.add(drift, length);
    if (!last) x_ = x_.add(step_noise_(step_), std::sqrt(2 * (1 - t) * length));
    ++step_;
  }

 private:
  double LastLength() const { return std::max(0.04, 1.0 / static_cast<double>(steps_)); }
  double Length() const { return (1 - LastLength()) / static_cast<double>(steps_ - 1); }
  double Time() const { return step_ == 0 ? 0 : static_cast<double>(step_) * Length(); }

  const StepNoise step_noise_;
};

}  // namespace

std::unique_ptr<Sampler> MakeFlowSampler(const SamplerOptions& options, const at::Tensor& noise,
                                         const StepNoise& step_noise) {
  if (options.kind == SamplerKind::kHeun)
    return std::make_unique<HeunSampler>(noise, options.steps);
  if (options.kind == SamplerKind::kEulerMaruyama) {
    return std::make_unique<EulerMaruyamaSampler>(noise, options.steps, step_noise);
  }
  return std::make_unique<EulerSampler>(noise, options.steps);
}

}  // namespace diffmoe
