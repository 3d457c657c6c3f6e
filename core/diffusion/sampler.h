// Samplers as step machines: a sampler says which network call it wants next and is fed the answer,
// so that the caller decides how calls of different requests share the network.
//
//   while (!sampler->done()) sampler->Feed(network(sampler->next()));
//
// One sampler holds one state tensor [B, C, H, W]. All of its samples take the same steps (dopri5
// measures its error over the whole tensor), so an image whose bits must not depend on others has a
// sampler of its own, B = 1.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "core/diffusion/ddpm_schedule.h"
#include "core/diffusion/sampler_kind.h"

namespace diffmoe {

struct NetworkCall {
  at::Tensor x;  // [B, C, H, W]
  double t = 0;  // time of the process: flow t, may lie beyond 1 with dopri5; DDPM step, 0 to 999
};

// Not thread safe.
class Sampler {
 public:
  virtual ~Sampler() = default;

  virtual bool done() const = 0;
  // Not when done.
  virtual NetworkCall next() const = 0;
  // The network's answer to next(), [B, C or more, H, W]; channels that the sampler doesn't use are
  // ignored. Throws std::runtime_error when an adaptive sampler can't go on.
  virtual void Feed(const at::Tensor& output) = 0;
  // After the last whole step, [B, C, H, W]; the result when done.
  virtual const at::Tensor& x() const = 0;
  // The data that the network expects at the end of the way, by its last answer; x() before the
  // first. For previews.
  virtual at::Tensor expected() const = 0;
  virtual int64_t steps_done() const = 0;
  // Share of the way, 1 when done.
  virtual double progress() const = 0;
};

// Standard normal noise of a step, [B, C, H, W]. A function of the step alone, asked for at most
// once per step, and only by euler_maruyama, ancestral, and ddim with eta > 0.
using StepNoise = std::function<at::Tensor(int64_t step)>;

// Starts from `noise`. Throws std::invalid_argument when CheckSamplerOptions finds a fault.
std::unique_ptr<Sampler> MakeSampler(const SamplerOptions& options, ProcessKind process,
                                     const at::Tensor& noise, const StepNoise& step_noise);

// A sampler of `schedule` as it is; for schedules other than the linear one.
std::unique_ptr<Sampler> MakeDdpmSampler(const SamplerOptions& options, DdpmSchedule schedule,
                                         const at::Tensor& noise, const StepNoise& step_noise);

// Noise keyed by (seed, image): the start, and that of each step. [1, C, H, W] fp32.
at::Tensor InitialNoise(const ModelConfig& model, uint64_t seed, uint32_t image);
StepNoise KeyedStepNoise(const ModelConfig& model, uint64_t seed, uint32_t image);

}  // namespace diffmoe
