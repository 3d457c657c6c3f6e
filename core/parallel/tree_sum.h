// The sum of GradientTree over raw memory: a binary tree over parts, element by element.
#pragma once

#include <cstddef>
#include <span>

namespace diffmoe {

// parts: a power of two of pointers to `count` elements -> out [count], which overlaps none.
// Throws std::logic_error for another number of parts.
template <typename Real>
void TreeSum(std::span<const Real* const> parts, size_t count, Real* out);

}  // namespace diffmoe
