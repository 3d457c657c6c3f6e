// Names of the samplers and the rules of their options. Torch-free: the coordinator and the command
// line use it too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/spec/training_config.h"

namespace diffmoe {

enum class SamplerKind {
  // Rectified flow.
  kEuler,
  kHeun,
  kDopri5,         // adaptive Runge-Kutta of order 5
  kEulerMaruyama,  // SDE with the flow's marginals
  // DDPM.
  kAncestral,
  kDdim,
  kDpmSolver2M,  // DPM-Solver++(2M), steps even in the logarithm of the signal-to-noise ratio
};

struct SamplerOptions {
  SamplerKind kind = SamplerKind::kEuler;
  int64_t steps = 50;  // of the time grid; dopri5 chooses its own and ignores it
  double eta = 0;      // ddim: 0 deterministic, 1 as much noise as the ancestral sampler
  double relative_tolerance = 1e-3, absolute_tolerance = 1e-6;  // dopri5
  bool clip_denoised = false;  // ddpm: the predicted image is cut to [-1, 1] in every step
};

inline constexpr int64_t kMaxSamplerSteps = 1000;

// euler, heun, dopri5, euler_maruyama, ancestral, ddim, dpmpp_2m.
absl::string_view SamplerName(SamplerKind kind);
// INVALID_ARGUMENT names the nearest sampler and all of them.
absl::StatusOr<SamplerKind> ParseSampler(absl::string_view name);

ProcessKind ProcessOf(SamplerKind kind);
// "rectified_flow" or "ddpm".
absl::string_view ProcessName(ProcessKind process);
// euler for the flow, as published; ddim for ddpm.
SamplerKind DefaultSampler(ProcessKind process);

struct OptionFault {
  std::string field;        // sampler, steps, eta
  std::string description;  // expected ..., got ...
};
// Everything that is wrong with `options` for a model trained with `process`.
std::vector<OptionFault> CheckSamplerOptions(const SamplerOptions& options, ProcessKind process);

}  // namespace diffmoe
