#include "core/moe/row_kernels.h"

#include <algorithm>
#include <cstring>

namespace diffmoe {
namespace {

template <typename Real>
inline void AddScaled(Real* __restrict out, const Real* __restrict in, Real scale, int64_t width) {
  for (int64_t d = 0; d < width; ++d) out[d] += scale * in[d];
}

// Eight partial sums in a fixed order, so that the bits don't depend on how the loop is vectorised.
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
void RowKernels<Real>::Gather(const Real* in, const int64_t* ids, int64_t count, int64_t width,
                              Real* out) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(out + i * width, in + ids[i] * width, static_cast<size_t>(width) * sizeof(Real));
  }
}

template <typename Real>
void RowKernels<Real>::Combine(const Real* rows_in, const int32_t* rows, const Real* weights,
                               int64_t tokens, int64_t experts, int64_t width, Real* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    Real* sum = out + t * width;
    std::fill(sum, sum + width, Real{0});
    for (int64_t e = 0; e < experts; ++e) {
      const int32_t row = rows[t * experts + e];
      if (row < 0) continue;
      const Real weight = weights == nullptr ? Real{1} : weights[t * experts + e];
      AddScaled(sum, rows_in + row * width, weight, width);
    }
  }
}

template <typename Real>
void RowKernels<Real>::CombineBackward(const Real* grad, const Real* rows_in, const int32_t* rows,
                                       const Real* weights, int64_t tokens, int64_t experts,
                                       int64_t width, Real* rows_out, Real* dweights) {
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

template struct RowKernels<float>;
template struct RowKernels<double>;

}  // namespace diffmoe
