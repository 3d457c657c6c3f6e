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

at::Tensor EulerStep(const at::Tensor& x, const at::Tensor& velocity, int64_t steps) {
  return x.add(velocity, 1.0 / static_cast<double>(steps));
}

}  // namespace diffmoe
