// Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), optionally in a part of the way
// only (Kynkaanniemi et al., arXiv 2404.07724).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "core/diffusion/process.h"
#include "core/diffusion/sampler.h"

namespace diffmoe {

struct Guidance {
  double scale = 1;           // 1: off, one network call per step instead of two
  double begin = 0, end = 1;  // where it acts, as Process::Progress: 0 is noise, 1 is data
  int64_t channels = 0;       // the first so many channels are guided; 0: all of the data's
  // Both halves in one network call. False: two calls, for networks in which samples of a call see
  // each other.
  bool joint = true;
};

// Whether a call at time t of the process has an unconditional half.
bool IsGuided(const Process& process, double t, const Guidance& guidance);
// uncond + scale * (cond - uncond) on the guided channels, the conditional output on all others.
// conditional, unconditional: [n, C_out, H, W]; `channels`: of the data, guided when `guidance`
// names no number. Elementwise: samples never meet.
at::Tensor MixGuidance(const at::Tensor& conditional, const at::Tensor& unconditional,
                       int64_t channels, const Guidance& guidance);

// x: [n, C, H, W]; t: [n], time of the process; labels: [n] int64. Returns [n, C_out, H, W].
using Network =
    std::function<at::Tensor(const at::Tensor& x, const at::Tensor& t, const at::Tensor& labels)>;

// The answer to `call` for labels [B]: uncond + scale * (cond - uncond) on the guided channels, the
// conditional output on all others. `null_class` is the label of the unconditional half.
at::Tensor GuidedOutput(const Network& network, const Process& process, const NetworkCall& call,
                        const at::Tensor& labels, int64_t null_class, const Guidance& guidance);

}  // namespace diffmoe
