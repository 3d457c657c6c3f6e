// Rectified flow (arXiv 2209.03003), in the convention of the published DiffMoE code: x_t = t x +
// (1 - t) noise, the network predicts x - noise, so t = 0 is noise and t = 1 is data.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace diffmoe {

// x, noise: [B, C, H, W]; t: [B]. Returns x_t, same shape.
at::Tensor Interpolate(const at::Tensor& x, const at::Tensor& noise, const at::Tensor& t);

struct FlowLoss {
  double loss = 0;         // sum of squared errors of these samples / global_elements
  at::Tensor grad_output;  // d loss / d output, [B, C_out, H, W], zero on channels past C
};

// output: [B, C_out, H, W], C_out >= C; target: x - noise, [B, C, H, W]. `global_elements` =
// elements of the target over the whole global batch, so that losses and gradients of units and
// ranks add up to the mean.
FlowLoss RectifiedFlowLoss(const at::Tensor& output, const at::Tensor& target,
                           double global_elements);

// One guided prediction: velocity at x [B, C, H, W] and time t.
using Velocity = std::function<at::Tensor(const at::Tensor& x, double t)>;

// Euler steps from noise at t = 0 to data at t = 1. `on_step(k)` is called after step k = 1..steps
// and stops early by returning false (then the result is incomplete).
at::Tensor EulerSample(at::Tensor x, int64_t steps, const Velocity& velocity,
                       const std::function<bool(int64_t step, const at::Tensor& x)>& on_step);

}  // namespace diffmoe
