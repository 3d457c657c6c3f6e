#include "core/moe/row_kernels.h"

#include <algorithm>

namespace diffmoe {
namespace {

// Sixteen partial sums in a fixed order, so that the bits don't depend on how the loop is
// vectorised.
template <typename Real>
inline Real Dot(const Real* __restrict a, const Real* __restrict b, int64_t width) {
  constexpr int64_t kLanes = 16;
  Real lanes[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[d + lane] * b[d + lane];
  }
  for (int64_t lane = 0; d < width; ++d, ++lane) lanes[lane] += a[d] * b[d];
  for (int64_t step = kLanes / 2; step > 0; step /= 2) {
    for (int64_t lane = 0; lane < step; ++lane) lanes[lane] += lanes[lane + step];
  }
  return lanes[0];
}

}  // namespace

template <typename Real>
void CombineRowsBackward(const Real* grad, const Real* rows_in, const int32_t* rows,
                         const Real* weights, int64_t tokens, int64_t experts, int64_t width,
                         Real* rows_out, Real* dweights) {
  std::fill(dweights, dweights + tokens * experts, Real{0});
  for (int64_t t = 0; t < tokens; ++t) {
    const Real* g = grad + t * width;
    for (int64_t e = 0; e < experts; ++e) {
      const int32_t row = rows[t * experts + e];
      if (row < 0) continue;
      const Real weight = weights[t * experts + e];
      Real* out = rows_out + row * width;
      for (int64_t d = 0; d < width; ++d) out[d] = weight * g[d];
      dweights[t * experts + e] = Dot(g, rows_in + row * width, width);
    }
  }
}

template void CombineRowsBackward<float>(const float*, const float*, const int32_t*, const float*,
                                         int64_t, int64_t, int64_t, float*, float*);
template void CombineRowsBackward<double>(const double*, const double*, const int32_t*,
                                          const double*, int64_t, int64_t, int64_t, double*,
                                          double*);

}  // namespace diffmoe
