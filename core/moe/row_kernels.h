// Gradient of the combination of expert outputs (core/kernels/permute_ops.h) on the CPU. Buffers
// are row-major and contiguous.
#pragma once

#include <cstdint>

namespace diffmoe {

// rows[t * experts + e]: which exchanged row belongs to (token, expert), -1 when not selected. For
// each selected (t, e): rows_out[row] = weights[t, e] * grad[t] and dweights[t, e] = <grad[t],
// rows_in[row]>; dweights is 0 elsewhere.
template <typename Real>
void CombineRowsBackward(const Real* grad, const Real* rows_in, const int32_t* rows,
                         const Real* weights, int64_t tokens, int64_t experts, int64_t width,
                         Real* rows_out, Real* dweights);

}  // namespace diffmoe
