// Small matrix products in registers, for kernels that are compiled per instruction set. Each
// element of a result is one chain of multiply-adds in ascending k, whatever its place.
#pragma once

#include "core/kernels/vector_math.h"

namespace diffmoe::kernels {

inline constexpr int64_t kTileRows = 8;
inline constexpr int64_t kTileVectors = 2;
template <typename Real>
inline constexpr int64_t kTileColumns = kTileVectors* kLanes<Real>;

// n rounded up to a multiple of `unit`.
DIFFMOE_INLINE constexpr int64_t RoundUp(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

// kRows x kTileColumns of C at c: (+)= A B. Element (i, k) of A stands at a[i * row + k * step].
template <typename Real, int64_t kRows>
DIFFMOE_INLINE void Tile(const Real* a, int64_t row, int64_t step, const Real* b, int64_t b_row,
                         int64_t depth, bool add, Real* c, int64_t c_row) {
  Vector<Real> sum[kRows][kTileVectors];
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t v = 0; v < kTileVectors; ++v) {
      sum[i][v] = add ? Load(c + i * c_row + v * kLanes<Real>) : Vector<Real>{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    const Vector<Real> b0 = Load(b + k * b_row), b1 = Load(b + k * b_row + kLanes<Real>);
#pragma GCC unroll 8
    for (int64_t i = 0; i < kRows; ++i) {
      const Real x = a[i * row + k * step];
      sum[i][0] += x * b0;
      sum[i][1] += x * b1;
    }
  }
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t v = 0; v < kTileVectors; ++v) Store(c + i * c_row + v * kLanes<Real>, sum[i][v]);
  }
}

// C [rows, columns] (+)= A [rows, depth] B [depth, columns]. `columns` must be a multiple of
// kTileColumns and is what the rows of B and C hold; `rows` is any number.
template <typename Real>
DIFFMOE_INLINE void Product(int64_t rows, int64_t columns, int64_t depth, const Real* a,
                            int64_t row, int64_t step, const Real* b, int64_t b_row, bool add,
                            Real* c, int64_t c_row) {
  for (int64_t j = 0; j < columns; j += kTileColumns<Real>) {
    int64_t i = 0;
    for (; i + kTileRows <= rows; i += kTileRows) {
      Tile<Real, kTileRows>(a + i * row, row, step, b + j, b_row, depth, add, c + i * c_row + j,
                            c_row);
    }
    for (; i < rows; ++i) {
      Tile<Real, 1>(a + i * row, row, step, b + j, b_row, depth, add, c + i * c_row + j, c_row);
    }
  }
}

}  // namespace diffmoe::kernels
