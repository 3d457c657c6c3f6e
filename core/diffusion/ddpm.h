// DDPM with noise prediction (Ho et al., arXiv 2006.11239) and learned variances (Nichol and
// Dhariwal, arXiv 2102.09672); DDIM (Song et al., arXiv 2010.02502).
//
// Common shapes: x, x0, noise: [B, C, H, W]; output (of the network): [B, C or 2C, H, W], noise
// first, then the variance channels v; step: [B] int64, steps of `schedule`. Coefficients are
// computed in fp64 and rounded once to the dtype of x.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/diffusion/ddpm_schedule.h"

namespace diffmoe {

enum class VarianceKind {
  kLearnedRange,  // log variance = f log(beta) + (1 - f) log(posterior variance), f = (v + 1) / 2
  kFixedLarge,    // beta; at step 0 the posterior variance of step 1
  kFixedSmall,    // the posterior variance
};
// kLearnedRange when the output has variance channels, else kFixedLarge.
VarianceKind VarianceOf(const at::Tensor& output, const at::Tensor& x);

// x_t: sqrt(a) x0 + sqrt(1 - a) noise with a = alphas_cumprod[step].
at::Tensor AddNoise(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& noise,
                    const at::Tensor& step);

// p(x_{t-1} | x_t); all [B, C, H, W].
struct DdpmPrediction {
  at::Tensor x0;  // the predicted image
  at::Tensor mean, variance, log_variance;
};
// clip: the predicted image is cut to [-1, 1] first.
DdpmPrediction Predict(const DdpmSchedule& schedule, VarianceKind kind, const at::Tensor& output,
                       const at::Tensor& x, const at::Tensor& step, bool clip);

// mean + standard deviation * noise; without noise at step 0.
at::Tensor AncestralStep(const DdpmPrediction& prediction, const at::Tensor& step,
                         const at::Tensor& noise);
// From x at `step` to one step less noise along the predicted image x0. An undefined `noise` stands
// for eta = 0.
at::Tensor DdimStep(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& x,
                    const at::Tensor& step, double eta, const at::Tensor& noise);
// The way back: to one step more noise.
at::Tensor DdimReverseStep(const DdpmSchedule& schedule, const at::Tensor& x0, const at::Tensor& x,
                           const at::Tensor& step);

// The term of the variational bound, in bits per element: KL(q(x_{t-1} | x_t, x0) || p), or at step
// 0 the negative log likelihood of x0, whose values are taken as discretised to 1/127.5. Computed
// in fp64.
struct VariationalBound {
  at::Tensor bits;           // [B] fp64, mean over the elements of each sample
  at::Tensor grad_variance;  // [B, C, H, W] fp64: d (sum of bits over elements) / d v
};
// output: [B, 2C, H, W]; its gradient reaches only v, the mean is taken as given.
VariationalBound VariationalBoundTerm(const DdpmSchedule& schedule, const at::Tensor& output,
                                      const at::Tensor& x0, const at::Tensor& noisy,
                                      const at::Tensor& step);

}  // namespace diffmoe
