#include "core/parallel/tree_sum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>

namespace diffmoe {
namespace {

constexpr size_t kBlock = 1024;  // elements: partial sums stay in the first-level cache

template <typename Real>
void SumBlock(std::span<const Real* const> parts, size_t first, size_t count, Real* out) {
  if (parts.size() == 1) {
    std::copy_n(parts[0] + first, count, out);
    return;
  }
  if (parts.size() == 2) {
    const Real *left = parts[0] + first, *right = parts[1] + first;
    for (size_t i = 0; i < count; ++i) out[i] = left[i] + right[i];
    return;
  }
  std::array<Real, kBlock> right;
  SumBlock(parts.first(parts.size() / 2), first, count, out);
  SumBlock(parts.last(parts.size() / 2), first, count, right.data());
  for (size_t i = 0; i < count; ++i) out[i] += right[i];
}

}  // namespace

template <typename Real>
void TreeSum(std::span<const Real* const> parts, size_t count, Real* out) {
  if (!std::has_single_bit(parts.size())) {
    throw std::logic_error("the number of parts of a tree sum must be a power of two");
  }
  for (size_t first = 0; first < count; first += kBlock) {
    SumBlock(parts, first, std::min(kBlock, count - first), out + first);
  }
}

template void TreeSum<float>(std::span<const float* const>, size_t, float*);
template void TreeSum<double>(std::span<const double* const>, size_t, double*);

}  // namespace diffmoe
