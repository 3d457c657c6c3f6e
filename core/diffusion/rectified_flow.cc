#include "core/diffusion/rectified_flow.h"

#include <ATen/ops/zeros_like.h>

namespace diffmoe {

at::Tensor Interpolate(const at::Tensor& x, const at::Tensor& noise, const at::Tensor& t) {
  const at::Tensor w = t.view({-1, 1, 1, 1});
  return x.mul(w).add(noise.mul(w.neg().add(1)));
}

FlowLoss RectifiedFlowLoss(const at::Tensor& output, const at::Tensor& target,
                           double global_elements) {
  const int64_t channels = target.size(1);
  const at::Tensor error = output.detach().narrow(1, 0, channels).sub(target);
  FlowLoss result;
  result.loss = error.square().sum(at::kDouble).item<double>() / global_elements;
  result.grad_output = at::zeros_like(output);
  result.grad_output.narrow(1, 0, channels).copy_(error.mul(2.0 / global_elements));
  return result;
}

at::Tensor EulerSample(at::Tensor x, int64_t steps, const Velocity& velocity,
                       const std::function<bool(int64_t step, const at::Tensor& x)>& on_step) {
  for (int64_t k = 0; k < steps; ++k) {
    const double t = static_cast<double>(k) / static_cast<double>(steps);
    x = x.add(velocity(x, t), 1.0 / static_cast<double>(steps));
    if (on_step && !on_step(k + 1, x)) break;
  }
  return x;
}

}  // namespace diffmoe
