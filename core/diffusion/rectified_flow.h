// Rectified flow (arXiv 2209.03003), in the convention of the published DiffMoE code: x_t = t x +
// (1 - t) noise, the network predicts x - noise, so t = 0 is noise and t = 1 is data.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

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

// One of `steps` Euler steps from noise at t = 0 to data at t = 1; x and velocity have the same
// shape.
at::Tensor EulerStep(const at::Tensor& x, const at::Tensor& velocity, int64_t steps);

}  // namespace diffmoe
