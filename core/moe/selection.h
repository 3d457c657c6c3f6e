// Expert-side selection: the exact top K of a pool with one total order (value descending, smaller
// index first).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace diffmoe {

// Indices of the K best of `scores`, ascending. Requires 1 <= k <= scores.size() and finite scores.
// -0 and +0 are equal.
template <typename Real>
std::vector<int64_t> SelectTopK(std::span<const Real> scores, int64_t k);

// The k-th largest value (k = 1: the largest).
template <typename Real>
Real KthLargest(std::span<const Real> values, int64_t k);

// Rows that each of `experts` takes from a pool of `tokens`: C * tokens / experts, remainders to
// the first experts (or, rounding down as the published code does, to nobody), at least 1 and at
// most `tokens`.
std::vector<int64_t> ExpertCapacities(int64_t tokens, int64_t experts, double capacity,
                                      bool round_down = false);

}  // namespace diffmoe
