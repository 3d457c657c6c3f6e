// Vectors of 64 bytes and their exponential, for the CPU kernels. On machines with narrower
// registers the compiler splits them; a result's bits never depend on its lane.
//
// Kernels are compiled for several instruction sets, chosen at load time: a function marked
// DIFFMOE_CLONES calls templates marked DIFFMOE_INLINE.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define DIFFMOE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define DIFFMOE_INLINE inline __attribute__((always_inline))

namespace diffmoe::kernels {

template <typename Real>
struct VectorOf {
  static constexpr int64_t kLanes = 64 / sizeof(Real);
  typedef Real Type __attribute__((vector_size(64)));
};
template <typename Real>
using Vector = typename VectorOf<Real>::Type;
template <typename Real>
inline constexpr int64_t kLanes = VectorOf<Real>::kLanes;

template <typename Real>
DIFFMOE_INLINE Vector<Real> Load(const Real* from) {
  Vector<Real> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
template <typename Real>
DIFFMOE_INLINE void Store(Real* to, const Vector<Real>& v) {
  std::memcpy(to, &v, sizeof(v));
}
template <typename Real>
DIFFMOE_INLINE Vector<Real> Broadcast(Real value) {
  return Vector<Real>{} + value;
}
// Elements [d, d + lanes) of a row of `width` elements; lanes behind its end are zero, and are not
// stored.
template <typename Real>
DIFFMOE_INLINE Vector<Real> LoadRow(const Real* row, int64_t d, int64_t width) {
  if (width - d >= kLanes<Real>) return Load(row + d);
  Vector<Real> v{};
  if (width > d) std::memcpy(&v, row + d, static_cast<size_t>(width - d) * sizeof(Real));
  return v;
}
template <typename Real>
DIFFMOE_INLINE void StoreRow(Real* row, const Vector<Real>& v, int64_t d, int64_t width) {
  if (width - d >= kLanes<Real>) {
    Store(row + d, v);
  } else {
    std::memcpy(row + d, &v, static_cast<size_t>(width - d) * sizeof(Real));
  }
}
// `v` with zeros in the lanes behind the row's end.
template <typename Real>
DIFFMOE_INLINE Vector<Real> KeepRow(const Vector<Real>& v, int64_t d, int64_t width) {
  if (width - d >= kLanes<Real>) return v;
  Vector<Real> kept{};
  std::memcpy(&kept, &v, static_cast<size_t>(width - d) * sizeof(Real));
  return kept;
}

// Sum of all lanes in a fixed order: halves are added until one is left.
template <typename Real>
DIFFMOE_INLINE Real SumLanes(const Vector<Real>& v) {
  Real lanes[kLanes<Real>];
  Store(lanes, v);
  for (int64_t half = kLanes<Real> / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// e^x with an error below 1.5 ulp; x is clamped to [-87.3, 88.3], so the result is normal and
// finite. Cody-Waite reduction to |r| <= ln(2)/2, then a polynomial of degree 7.
DIFFMOE_INLINE Vector<float> Exp(Vector<float> x) {
  using Int = int32_t __attribute__((vector_size(64)));
  const Vector<float> low = Broadcast(-87.3f), high = Broadcast(88.3f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the lowest bits.
  const Vector<float> magic = Broadcast(12582912.0f);
  const Vector<float> shifted = x * 1.44269504f + magic;
  const Vector<float> n = shifted - magic;
  const Vector<float> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vector<float> p = Broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Int exponent;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  const Int bits = (exponent - 0x4B400000 + 127) << 23;
  Vector<float> scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}

DIFFMOE_INLINE Vector<double> Exp(Vector<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

}  // namespace diffmoe::kernels
