#include "core/moe/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace diffmoe {
namespace {

// Sorts everything: the definition of the total order.
template <typename Real>
std::vector<int64_t> Oracle(const std::vector<Real>& scores, int64_t k) {
  std::vector<int64_t> ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  ids.resize(static_cast<size_t>(k));
  std::sort(ids.begin(), ids.end());
  return ids;
}

template <typename Real>
class SelectTopKTest : public ::testing::Test {};
using Reals = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SelectTopKTest, Reals);

TYPED_TEST(SelectTopKTest, EqualsSortingOnRandomCasesWithTies) {
  constexpr uint32_t kSeed = 20260;
  std::mt19937 random(kSeed);
  const std::vector<TypeParam> special = {0,
                                          static_cast<TypeParam>(-0.0),
                                          std::numeric_limits<TypeParam>::denorm_min(),
                                          -std::numeric_limits<TypeParam>::denorm_min(),
                                          1,
                                          -1,
                                          std::numeric_limits<TypeParam>::max()};
  for (int round = 0; round < 2000; ++round) {
    const size_t tokens = 1 + random() % 64;
    const int kind = static_cast<int>(random() % 3);
    std::vector<TypeParam> scores(tokens);
    for (TypeParam& score : scores) {
      if (kind == 0) score = static_cast<TypeParam>(random()) / static_cast<TypeParam>(1e9);
      if (kind == 1) score = static_cast<TypeParam>(random() % 3);  // heavy ties
      if (kind == 2) score = special[random() % special.size()];
    }
    const int64_t k = 1 + static_cast<int64_t>(random() % tokens);
    EXPECT_EQ(SelectTopK<TypeParam>(scores, k), Oracle(scores, k))
        << "seed " << kSeed << " round " << round;
    std::vector<TypeParam> sorted = scores;
    std::sort(sorted.rbegin(), sorted.rend());
    EXPECT_EQ(KthLargest<TypeParam>(scores, k), sorted[static_cast<size_t>(k - 1)]);
  }
}

TEST(ExpertCapacities, DistributesTheRemainder) {
  EXPECT_EQ(ExpertCapacities(48, 4, 1), (std::vector<int64_t>{12, 12, 12, 12}));
  EXPECT_EQ(ExpertCapacities(21, 4, 1.5), (std::vector<int64_t>{8, 8, 8, 7}));
  EXPECT_EQ(ExpertCapacities(10, 4, 1), (std::vector<int64_t>{3, 3, 2, 2}));
  EXPECT_EQ(ExpertCapacities(4, 8, 1), (std::vector<int64_t>(8, 1)));   // at least one
  EXPECT_EQ(ExpertCapacities(4, 2, 10), (std::vector<int64_t>(2, 4)));  // at most all
}

}  // namespace
}  // namespace diffmoe
