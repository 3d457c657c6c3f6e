#include "core/moe/selection.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <utility>

#include "core/base/planted_faults.h"

namespace diffmoe {
namespace {

// Maps a finite float to an integer with the same order.
uint32_t OrderedBits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0 becomes +0
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace

template <>
std::vector<int64_t> SelectTopK<float>(std::span<const float> scores, int64_t k) {
  // One word per token: larger scores first, then smaller indices.
  std::vector<uint64_t> keys(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    const uint32_t tie =
        Planted(Fault::kTieOrderReversed) ? ~static_cast<uint32_t>(i) : static_cast<uint32_t>(i);
    keys[i] = static_cast<uint64_t>(~OrderedBits(scores[i])) << 32 | tie;
  }
  std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end());
  std::vector<int64_t> ids(static_cast<size_t>(k));
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint32_t tie = static_cast<uint32_t>(keys[i]);
    ids[i] = Planted(Fault::kTieOrderReversed) ? ~tie : tie;
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

template <>
std::vector<int64_t> SelectTopK<double>(std::span<const double> scores, int64_t k) {
  std::vector<std::pair<double, int64_t>> keys(scores.size());
  const int64_t sign = Planted(Fault::kTieOrderReversed) ? -1 : 1;
  for (size_t i = 0; i < scores.size(); ++i) {
    keys[i] = {-scores[i] + 0.0, sign * static_cast<int64_t>(i)};
  }
  std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end());
  std::vector<int64_t> ids(static_cast<size_t>(k));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = sign * keys[i].second;
  std::sort(ids.begin(), ids.end());
  return ids;
}

template <typename Real>
Real KthLargest(std::span<const Real> values, int64_t k) {
  std::vector<Real> copy(values.begin(), values.end());
  std::nth_element(copy.begin(), copy.begin() + (k - 1), copy.end(), std::greater<Real>());
  return copy[static_cast<size_t>(k - 1)];
}
template float KthLargest<float>(std::span<const float>, int64_t);
template double KthLargest<double>(std::span<const double>, int64_t);

std::vector<int64_t> ExpertCapacities(int64_t tokens, int64_t experts, double capacity,
                                      bool round_down) {
  const int64_t total = std::llround(std::floor(capacity * static_cast<double>(tokens) + 1e-9));
  std::vector<int64_t> rows(static_cast<size_t>(experts));
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t remainder = !round_down && e < total % experts ? 1 : 0;
    rows[static_cast<size_t>(e)] = std::clamp<int64_t>(total / experts + remainder, 1, tokens);
  }
  return rows;
}

}  // namespace diffmoe
