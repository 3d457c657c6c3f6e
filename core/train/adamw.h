// AdamW (arXiv 1711.05101) and the exponential moving average of the weights in one pass over flat
// fp32 or fp64 memory.
#pragma once

#include <cstdint>

namespace diffmoe {

struct AdamwStep {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double ema_decay = 0;
  int64_t step = 1;       // 1 for the first update, for the bias correction
  double grad_scale = 1;  // applied to the gradient first (clipping)
};

// Updates weight, m, v and ema in place from grad; each has `count` elements. Every element's
// result depends on that element only.
template <typename Real>
void AdamwEma(const AdamwStep& step, int64_t count, const Real* grad, Real* weight, Real* m,
              Real* v, Real* ema);

}  // namespace diffmoe
