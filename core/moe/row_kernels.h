// Row movement of a MoE layer on the CPU. All buffers are row-major and contiguous. Sums run in
// ascending expert order for each token, so a row's bits depend on that token only.
#pragma once

#include <cstdint>

namespace diffmoe {

// Which row of the exchanged buffer belongs to (token, expert): rows[token * experts + expert], -1
// when not selected.
template <typename Real>
struct RowKernels {
  // out[i] = in[ids[i]]
  static void Gather(const Real* in, const int64_t* ids, int64_t count, int64_t width, Real* out);

  // out[t] = sum over e of weights[t, e] * rows_in[row(t, e)]; weights may be null (1).
  static void Combine(const Real* rows_in, const int32_t* rows, const Real* weights, int64_t tokens,
                      int64_t experts, int64_t width, Real* out);

  // For each selected (t, e): rows_out[row] = weights[t, e] * grad[t]; dweights[t, e] = <grad[t],
  // rows_in[row]>, 0 elsewhere.
  static void CombineBackward(const Real* grad, const Real* rows_in, const int32_t* rows,
                              const Real* weights, int64_t tokens, int64_t experts, int64_t width,
                              Real* rows_out, Real* dweights);
};

}  // namespace diffmoe
