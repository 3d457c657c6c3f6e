// The perfect network for data of independent normal pixels: its outputs, the exact paths of the
// deterministic samplers and the final distribution are known in closed form.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>

#include <cmath>

#include "core/diffusion/sampler.h"

namespace diffmoe {

struct GaussianModel {
  double mean = 0.3, deviation = 0.7;

  // Network output of the rectified flow at x_t = t data + (1 - t) noise: E[data - noise | x_t].
  at::Tensor Velocity(const at::Tensor& x, double t) const {
    const double variance = t * t * deviation * deviation + (1 - t) * (1 - t);
    const double slope = (t * deviation * deviation - (1 - t)) / variance;
    return x.sub(t * mean).mul(slope).add(mean);
  }
  // Where the flow's ODE takes `noise`.
  at::Tensor FlowEnd(const at::Tensor& noise) const { return noise.mul(deviation).add(mean); }

  // E[noise | x] for x = sqrt(a) data + sqrt(1 - a) noise.
  at::Tensor Noise(const at::Tensor& x, double a) const {
    const double variance = a * deviation * deviation + 1 - a;
    return x.sub(std::sqrt(a) * mean).mul(std::sqrt(1 - a) / variance);
  }
  // Where DDPM's ODE takes `noise`: from the last step of the schedule to its step 0, then to the
  // expected data.
  at::Tensor DdpmEnd(const DdpmSchedule& schedule, const at::Tensor& noise) const {
    const double last = schedule.alphas_cumprod.back(), first = schedule.alphas_cumprod.front();
    const auto spread = [&](double a) { return std::sqrt(a * deviation * deviation + 1 - a); };
    const at::Tensor standard = noise.sub(std::sqrt(last) * mean).div(spread(last));
    return standard.mul(std::sqrt(first) * deviation * deviation / spread(first)).add(mean);
  }
};

// Runs a flow sampler; returns the number of network calls.
inline int64_t RunFlow(const GaussianModel& model, Sampler& sampler) {
  int64_t calls = 0;
  for (; !sampler.done(); ++calls) {
    const NetworkCall call = sampler.next();
    sampler.Feed(model.Velocity(call.x, call.t));
  }
  return calls;
}

// Runs a DDPM sampler; `full` is the schedule whose steps the calls name.
inline int64_t RunDdpm(const GaussianModel& model, const DdpmSchedule& full, Sampler& sampler) {
  int64_t calls = 0;
  for (; !sampler.done(); ++calls) {
    const NetworkCall call = sampler.next();
    sampler.Feed(model.Noise(call.x, full.alphas_cumprod[static_cast<size_t>(call.t)]));
  }
  return calls;
}

}  // namespace diffmoe
