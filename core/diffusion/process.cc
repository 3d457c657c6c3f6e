#include "core/diffusion/process.h"

#include <algorithm>
#include <cmath>

#include "core/diffusion/ddpm.h"
#include "core/diffusion/rectified_flow.h"

namespace diffmoe {
namespace {

class FlowProcess final : public Process {
 public:
  at::Tensor Noisy(const at::Tensor& x, const at::Tensor& noise,
                   const at::Tensor& t) const override {
    return Interpolate(x, noise, t.to(x.scalar_type()));
  }
  at::Tensor ModelTime(const at::Tensor& t, double time_scale) const override {
    return t.to(at::kFloat).mul(time_scale);
  }
  ProcessLoss Loss(const at::Tensor& output, const at::Tensor& x, const at::Tensor& noise,
                   const at::Tensor&, const at::Tensor&, double global_elements) const override {
    FlowLoss flow = RectifiedFlowLoss(output, x.sub(noise), global_elements);
    return {flow.loss, std::move(flow.grad_output)};
  }
  double Progress(double t) const override { return std::clamp(t, 0.0, 1.0); }
};

class DdpmProcess final : public Process {
 public:
  at::Tensor Noisy(const at::Tensor& x, const at::Tensor& noise,
                   const at::Tensor& t) const override {
    return AddNoise(schedule_, x, noise, t);
  }
  at::Tensor ModelTime(const at::Tensor& t, double) const override { return t.to(at::kFloat); }
  ProcessLoss Loss(const at::Tensor& output, const at::Tensor& x, const at::Tensor& noise,
                   const at::Tensor& noisy, const at::Tensor& t,
                   double global_elements) const override {
    // The noise takes the place of the flow's target.
    FlowLoss mse = RectifiedFlowLoss(output, noise, global_elements);
    ProcessLoss loss{mse.loss, std::move(mse.grad_output)};
    if (VarianceOf(output, x) == VarianceKind::kLearnedRange) {
      const int64_t channels = x.size(1);
      const VariationalBound bound = VariationalBoundTerm(schedule_, output, x, noisy, t);
      const double share = static_cast<double>(x.numel() / x.size(0)) / global_elements;
      loss.loss += bound.bits.sum().item<double>() * share;
      loss.grad_output.narrow(1, channels, channels)
          .copy_(bound.grad_variance.div(global_elements));
    }
    return loss;
  }
  double Progress(double t) const override {
    return std::clamp(1 - t / static_cast<double>(kDdpmSteps - 1), 0.0, 1.0);
  }

 private:
  const DdpmSchedule schedule_ = DdpmSchedule::Linear();
};

}  // namespace

std::unique_ptr<Process> MakeProcess(const DiffusionConfig& config) {
  if (config.process == ProcessKind::kDdpm) return std::make_unique<DdpmProcess>();
  return std::make_unique<FlowProcess>();
}

float DdpmTrainingTime(double u) {
  return static_cast<float>(std::min(std::floor(u * static_cast<double>(kDdpmSteps)),
                                     static_cast<double>(kDdpmSteps - 1)));
}

}  // namespace diffmoe
