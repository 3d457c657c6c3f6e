// The noising processes that a model can be trained with: how data and noise are mixed, what the
// network is asked for, and the loss with its gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "core/spec/training_config.h"

namespace diffmoe {

struct ProcessLoss {
  double loss = 0;         // these samples' share of the mean over the global batch
  at::Tensor grad_output;  // d loss / d output, shape and dtype of output
};

// x, noise, noisy: [B, C, H, W] of one floating dtype; t: [B]. Thread safe: nothing changes.
class Process {
 public:
  virtual ~Process() = default;

  // x at time t.
  virtual at::Tensor Noisy(const at::Tensor& x, const at::Tensor& noise,
                           const at::Tensor& t) const = 0;
  // t as the network's sinusoid takes it, [B] fp32.
  virtual at::Tensor ModelTime(const at::Tensor& t, double time_scale) const = 0;
  // output: [B, C_out, H, W]. `global_elements` = elements of x over the whole global batch, so
  // that losses and gradients of units and ranks add up to the mean. A sample's gradient depends on
  // that sample alone.
  virtual ProcessLoss Loss(const at::Tensor& output, const at::Tensor& x, const at::Tensor& noise,
                           const at::Tensor& noisy, const at::Tensor& t,
                           double global_elements) const = 0;
  // How far t lies on the way from noise (0) to data (1).
  virtual double Progress(double t) const = 0;
};

// Rectified flow: t in [0, 1], the network predicts x - noise, mean squared error.
// DDPM: t a step from 0 to 999 of the linear schedule, the network predicts the noise. The loss is
// the mean squared error; with variance channels also the term of the variational bound, in bits,
// whose gradient reaches those channels only.
std::unique_ptr<Process> MakeProcess(const DiffusionConfig& config);

// Draws a training time from a number u, uniform in [0, 1): the step floor(1000 u).
float DdpmTrainingTime(double u);

}  // namespace diffmoe
