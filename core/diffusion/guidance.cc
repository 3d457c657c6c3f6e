#include "core/diffusion/guidance.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>

namespace diffmoe {

bool IsGuided(const Process& process, double t, const Guidance& guidance) {
  const double progress = process.Progress(t);
  return guidance.scale != 1 && progress >= guidance.begin && progress <= guidance.end;
}

at::Tensor MixGuidance(const at::Tensor& conditional, const at::Tensor& unconditional,
                       int64_t channels, const Guidance& guidance) {
  const int64_t guided = guidance.channels > 0 ? guidance.channels : channels;
  const at::Tensor from = unconditional.narrow(1, 0, guided);
  const at::Tensor mixed = from.add(conditional.narrow(1, 0, guided).sub(from).mul(guidance.scale));
  const int64_t rest = conditional.size(1) - guided;
  if (rest == 0) return mixed;
  return at::cat({mixed, conditional.narrow(1, guided, rest)}, 1);
}

at::Tensor GuidedOutput(const Network& network, const Process& process, const NetworkCall& call,
                        const at::Tensor& labels, int64_t null_class, const Guidance& guidance) {
  const int64_t n = call.x.size(0);
  const at::Tensor t = at::full({n}, call.t, at::TensorOptions().dtype(at::kFloat));
  if (!IsGuided(process, call.t, guidance)) return network(call.x, t, labels);
  const at::Tensor null_labels = at::full_like(labels, null_class);
  at::Tensor conditional, unconditional;
  if (guidance.joint) {
    const at::Tensor both =
        network(at::cat({call.x, call.x}), at::cat({t, t}), at::cat({labels, null_labels}));
    conditional = both.narrow(0, 0, n);
    unconditional = both.narrow(0, n, n);
  } else {
    conditional = network(call.x, t, labels);
    unconditional = network(call.x, t, null_labels);
  }
  return MixGuidance(conditional, unconditional, call.x.size(1), guidance);
}

}  // namespace diffmoe
