#include "core/base/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace diffmoe {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(PhiloxTest, KnownAnswers) {
  // kat_vectors of Random123 (Salmon et al.), philox4x32 with 10 rounds.
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStreamTest, EveryPartOfTheKeyMatters) {
  const Words base = RandomStream(1, RandomUse::kNoise, 2, 3).Block(0);
  EXPECT_EQ(base, RandomStream(1, RandomUse::kNoise, 2, 3).Block(0));
  EXPECT_NE(base, RandomStream(2, RandomUse::kNoise, 2, 3).Block(0));
  EXPECT_NE(base, RandomStream(1 | uint64_t{1} << 32, RandomUse::kNoise, 2, 3).Block(0));
  EXPECT_NE(base, RandomStream(1, RandomUse::kTime, 2, 3).Block(0));
  EXPECT_NE(base, RandomStream(1, RandomUse::kNoise, 3, 3).Block(0));
  EXPECT_NE(base, RandomStream(1, RandomUse::kNoise, 2 | uint64_t{1} << 39, 3).Block(0));
  EXPECT_NE(base, RandomStream(1, RandomUse::kNoise, 2, 4).Block(0));
  EXPECT_NE(base, RandomStream(1, RandomUse::kNoise, 2, 3).Block(1));
}

// Mean, variance, skewness and kurtosis of values.
std::array<double, 4> Moments(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  double mean = 0;
  for (double value : values) mean += value / n;
  double second = 0, third = 0, fourth = 0;
  for (double value : values) {
    const double d = value - mean;
    second += d * d / n;
    third += d * d * d / n;
    fourth += d * d * d * d / n;
  }
  return {mean, second, third / std::pow(second, 1.5), fourth / (second * second)};
}

TEST(RandomStreamTest, NormalsHaveTheMomentsOfANormal) {
  constexpr int kCount = 400'000;
  std::vector<float> drawn(kCount);
  RandomStream(7, RandomUse::kNoise, 0, 0).Normal(drawn);
  const auto [mean, variance, skewness, kurtosis] = Moments({drawn.begin(), drawn.end()});
  // Five standard errors: sqrt(1/n), sqrt(2/n), sqrt(6/n), sqrt(24/n).
  const double error = 5 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(mean, 0, error);
  EXPECT_NEAR(variance, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(skewness, 0, error * std::sqrt(6.0));
  EXPECT_NEAR(kurtosis, 3, error * std::sqrt(24.0));
  // Neighbours share a Box-Muller pair and must not share anything else.
  double correlation = 0;
  for (int i = 0; i + 1 < kCount; ++i) correlation += double{drawn[i]} * drawn[i + 1] / kCount;
  EXPECT_NEAR(correlation, 0, error);
}

TEST(RandomStreamTest, FirstNumbersOfManyStreamsAreIndependentDraws) {
  constexpr int kCount = 200'000;
  std::vector<double> uniforms, normals;
  for (int i = 0; i < kCount; ++i) {
    const RandomStream stream(3, RandomUse::kTime, i / 100, i % 100);
    const float uniform = stream.Uniform();
    ASSERT_GE(uniform, 0.0f);
    ASSERT_LT(uniform, 1.0f);
    ASSERT_NEAR(stream.UniformDouble(), uniform, 1e-6);
    uniforms.push_back(uniform);
    normals.push_back(stream.FirstNormal());
  }
  const double error = 5 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(Moments(uniforms)[0], 0.5, error * std::sqrt(1 / 12.0));
  EXPECT_NEAR(Moments(uniforms)[1], 1 / 12.0, error * std::sqrt(1 / 180.0));
  EXPECT_NEAR(Moments(normals)[0], 0, error);
  EXPECT_NEAR(Moments(normals)[1], 1, error * std::sqrt(2.0));
}

TEST(RandomStreamTest, ANormalDependsOnItsIndexAlone) {
  const RandomStream stream(11, RandomUse::kNoise, 5, 9);
  std::vector<float> all(103);
  stream.Normal(all);
  for (size_t length : {1u, 2u, 3u, 4u, 5u, 64u}) {
    std::vector<float> few(length);
    stream.Normal(few);
    for (size_t i = 0; i < length; ++i) EXPECT_EQ(few[i], all[i]);
  }
  EXPECT_EQ(stream.FirstNormal(), all[0]);
}

TEST(KeyedPermutationTest, IsABijectionForManySizes) {
  std::vector<uint64_t> sizes;
  for (uint64_t size = 1; size <= 300; ++size) sizes.push_back(size);
  for (uint64_t size : {1023u, 1024u, 1025u, 4096u, 4097u, 60000u}) sizes.push_back(size);
  for (uint64_t size : sizes) {
    const KeyedPermutation permutation(42, 3, size);
    std::vector<bool> seen(size);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t value = permutation(i);
      ASSERT_LT(value, size);
      ASSERT_FALSE(seen[value]) << "size " << size << " position " << i;
      seen[value] = true;
    }
  }
}

TEST(KeyedPermutationTest, SeedAndEpochGiveOtherOrders) {
  const auto order = [](uint64_t seed, uint64_t epoch) {
    std::vector<uint64_t> values;
    const KeyedPermutation permutation(seed, epoch, 1000);
    for (uint64_t i = 0; i < 1000; ++i) values.push_back(permutation(i));
    return values;
  };
  EXPECT_EQ(order(1, 0), order(1, 0));
  const std::set<std::vector<uint64_t>> orders = {order(1, 0), order(1, 1), order(2, 0),
                                                  order(1 | uint64_t{1} << 32, 0),
                                                  order(1, uint64_t{1} << 32)};
  EXPECT_EQ(orders.size(), 5u);
}

TEST(KeyedPermutationTest, ElementsAreSpreadEvenly) {
  // Over many epochs each element comes first equally often: chi-squared with 15 degrees of
  // freedom.
  constexpr int kEpochs = 16'000, kSize = 16;
  std::array<int, kSize> counts = {};
  for (int epoch = 0; epoch < kEpochs; ++epoch) ++counts[KeyedPermutation(9, epoch, kSize)(0)];
  double chi_squared = 0;
  for (int count : counts) chi_squared += std::pow(count - kEpochs / kSize, 2) / (kEpochs / kSize);
  EXPECT_LT(chi_squared, 44.3);  // exceeded with probability 1e-4
}

}  // namespace
}  // namespace diffmoe
