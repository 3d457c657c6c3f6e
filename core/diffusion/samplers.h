// The samplers behind MakeSampler.
#pragma once

#include <memory>

#include "core/diffusion/sampler.h"

namespace diffmoe {

// Euler, Heun, Euler-Maruyama on a fixed grid.
std::unique_ptr<Sampler> MakeFlowSampler(const SamplerOptions& options, const at::Tensor& noise,
                                         const StepNoise& step_noise);

// The Runge-Kutta pair of Dormand and Prince (J. Comput. Appl. Math. 6, 1980), order 5 with an
// error estimate of order 4. Step control as in torchdiffeq: first step after Hairer, Norsett and
// Wanner (Solving Ordinary Differential Equations I, II.4), root mean square of error / (atol +
// rtol |x|) over the whole state, factors 0.2 to 10 with safety 0.9. Steps aren't cut at t = 1: the
// network is called beyond it, and the end point is interpolated with a polynomial of order 4.
std::unique_ptr<Sampler> MakeDopri5Sampler(const SamplerOptions& options, const at::Tensor& noise);

}  // namespace diffmoe
