#include "core/eval/sample_quality.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "core/base/philox.h"
#include "core/eval/distance_kernel.h"

namespace diffmoe {
namespace {

LabelledImages Normals(int64_t count, int64_t dimensions, float mean, float deviation,
                       uint64_t seed) {
  LabelledImages set;
  set.dimensions = dimensions;
  set.values.resize(count * dimensions);
  RandomStream(seed, RandomUse::kNoise, 0, 0).Normal(set.values);
  for (float& value : set.values) value = mean + deviation * value;
  for (int64_t i = 0; i < count; ++i) set.labels.push_back(static_cast<int>(i % 3));
  return set;
}

double NaiveDistance(const LabelledImages& a, int64_t i, const LabelledImages& b, int64_t j) {
  double sum = 0;
  for (int64_t d = 0; d < a.dimensions; ++d) {
    sum += std::pow(double{a.values[i * a.dimensions + d]} - b.values[j * b.dimensions + d], 2);
  }
  return std::sqrt(sum / static_cast<double>(a.dimensions));
}

double NaiveEnergy(const LabelledImages& a, const LabelledImages& b) {
  const auto mean = [](const LabelledImages& x, const LabelledImages& y, bool same) {
    double sum = 0;
    int64_t pairs = 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      for (int64_t j = 0; j < y.count(); ++j) {
        if (same && i == j) continue;
        sum += NaiveDistance(x, i, y, j);
        ++pairs;
      }
    }
    return sum / static_cast<double>(pairs);
  };
  return 2 * mean(a, b, false) - mean(a, a, true) - mean(b, b, true);
}

TEST(DistanceKernelTest, AgreesWithANaiveLoopForAllRemainders) {
  for (int64_t count : {1, 15, 16, 17, 40}) {
    for (int64_t dimensions : {1, 3, 64}) {
      const LabelledImages reference = Normals(count, dimensions, 0, 1, 5);
      const LabelledImages queries = Normals(4, dimensions, 0, 1, 6);
      const PackedVectors packed(reference.values, dimensions);
      ASSERT_EQ(packed.count(), count);
      const float* rows[4];
      for (int q = 0; q < 4; ++q) rows[q] = queries.values.data() + q * dimensions;
      for (int64_t j = 0; j < count; ++j) {
        float out[4][PackedVectors::kBlock];
        packed.SquaredDistances(rows, j / PackedVectors::kBlock, out);
        for (int q = 0; q < 4; ++q) {
          const double expected = std::pow(NaiveDistance(queries, q, reference, j), 2) *
                                  static_cast<double>(dimensions);
          EXPECT_NEAR(out[q][j % PackedVectors::kBlock], expected, 1e-5 * (1 + expected));
        }
      }
    }
  }
}

TEST(EnergyDistanceTest, AgreesWithTheDefinition) {
  for (int64_t count : {2, 5, 18, 33}) {
    const LabelledImages a = Normals(count, 7, 0.3f, 1, 1), b = Normals(count + 3, 7, 0, 0.5f, 2);
    EXPECT_NEAR(EnergyDistance(a, b), NaiveEnergy(a, b), 1e-6) << count;
    EXPECT_NEAR(EnergyDistance(a, b), EnergyDistance(b, a), 1e-9);
  }
}

TEST(EnergyDistanceTest, IsUnbiasedAndGrowsWithTheDifference) {
  // Mean over many small draws of equal distributions: zero within five standard errors. A
  // V-statistic would be off by about E|X-X'| (1/20 + 1/20) / 1 = 0.14, far outside.
  double sum = 0, squares = 0;
  constexpr int kDraws = 400;
  for (int i = 0; i < kDraws; ++i) {
    const double value =
        EnergyDistance(Normals(20, 4, 0, 1, 2 * i), Normals(20, 4, 0, 1, 2 * i + 1));
    sum += value / kDraws;
    squares += value * value / kDraws;
  }
  EXPECT_NEAR(sum, 0, 5 * std::sqrt((squares - sum * sum) / kDraws));
  EXPECT_LT(5 * std::sqrt(squares / kDraws), 0.07);
  const LabelledImages base = Normals(300, 16, 0, 1, 100);
  double previous = EnergyDistance(base, Normals(300, 16, 0, 1, 101));
  for (float shift : {0.2f, 0.5f, 1.0f}) {
    const double distance = EnergyDistance(base, Normals(300, 16, shift, 1, 101));
    EXPECT_GT(distance, previous);
    previous = distance;
  }
}

TEST(NearestImagesTest, FindsTheNearestAndTheFirstOfEquals) {
  const LabelledImages reference = Normals(70, 5, 0, 1, 3);
  const LabelledImages queries = Normals(9, 5, 0, 1, 4);
  const auto nearest = NearestImages(queries, reference);
  for (int64_t i = 0; i < queries.count(); ++i) {
    for (int64_t j = 0; j < reference.count(); ++j) {
      EXPECT_LE(nearest[i].distance, NaiveDistance(queries, i, reference, j) + 1e-6);
    }
    EXPECT_NEAR(nearest[i].distance, NaiveDistance(queries, i, reference, nearest[i].index), 1e-6);
  }
  LabelledImages twice = reference;
  twice.values.insert(twice.values.end(), reference.values.begin(), reference.values.end());
  twice.labels.insert(twice.labels.end(), reference.labels.begin(), reference.labels.end());
  const auto copies = NearestImages(reference, twice);
  for (int64_t i = 0; i < reference.count(); ++i) {
    EXPECT_EQ(copies[i].index, i);
    EXPECT_EQ(copies[i].distance, 0);
  }
}

TEST(EvaluateSamplesTest, CopiesNoiseAndWrongClassesShow) {
  // Three well separated classes at -1, 0 and 1.
  const auto draw = [](int64_t count, uint64_t seed) {
    LabelledImages set = Normals(count, 12, 0, 0.1f, seed);
    for (size_t i = 0; i < set.values.size(); ++i) {
      set.values[i] += static_cast<float>(set.labels[i / 12] - 1);
    }
    return set;
  };
  const LabelledImages training = draw(300, 1), held_out = draw(90, 2);
  auto good = EvaluateSamples(draw(60, 3), training, held_out);
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->class_agreement, 1);
  EXPECT_EQ(good->class_agreement_floor, 1);
  EXPECT_NEAR(good->energy_distance, good->energy_distance_floor, 0.02);
  EXPECT_NEAR(good->nearest_distance, good->nearest_distance_floor, 0.02);
  EXPECT_EQ(good->nearest.size(), 60u);

  LabelledImages mislabelled = draw(60, 3);
  for (int& label : mislabelled.labels) label = (label + 1) % 3;
  auto wrong = EvaluateSamples(mislabelled, training, held_out);
  ASSERT_TRUE(wrong.ok());
  EXPECT_EQ(wrong->class_agreement, 0);
  EXPECT_EQ(wrong->energy_distance, good->energy_distance);

  auto noise = EvaluateSamples(Normals(60, 12, 0, 1, 4), training, held_out);
  ASSERT_TRUE(noise.ok());
  EXPECT_GT(noise->energy_distance, good->energy_distance_floor + 0.1);
  EXPECT_LT(noise->class_agreement, 0.7);
  EXPECT_GT(noise->nearest_distance, 3 * noise->nearest_distance_floor);

  auto copies = EvaluateSamples(training, training, held_out);
  ASSERT_TRUE(copies.ok());
  EXPECT_EQ(copies->nearest_distance, 0);
  EXPECT_GT(copies->nearest_distance_floor, 0);
}

TEST(EvaluateSamplesTest, TheSubsetIsFixedBySeed) {
  const LabelledImages training = Normals(200, 6, 0, 1, 1), held_out = Normals(50, 6, 0, 1, 2);
  const LabelledImages samples = Normals(100, 6, 0, 1, 3);
  const auto energy = [&](uint64_t seed) {
    auto quality =
        EvaluateSamples(samples, training, held_out, {.max_energy_images = 30, .seed = seed});
    EXPECT_TRUE(quality.ok());
    return quality->energy_distance;
  };
  EXPECT_EQ(energy(1), energy(1));
  EXPECT_NE(energy(1), energy(2));
}

TEST(EvaluateSamplesTest, BadSetsAreNamed) {
  const LabelledImages good = Normals(5, 6, 0, 1, 1);
  const auto message = [&](const LabelledImages& samples) {
    auto quality = EvaluateSamples(samples, good, good);
    EXPECT_EQ(quality.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(quality.status().message());
  };
  EXPECT_NE(message(Normals(5, 7, 0, 1, 1)).find("samples"), std::string::npos);
  EXPECT_NE(message(Normals(1, 6, 0, 1, 1)).find("at least 2"), std::string::npos);
  EXPECT_NE(message(LabelledImages{}).find("samples"), std::string::npos);
  LabelledImages broken = good;
  broken.values[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(message(broken).find("image 1 has a value that isn't finite"), std::string::npos);
}

TEST(AppendImageTest, MakesPlanesAndChecksSizes) {
  LabelledImages set;
  ASSERT_TRUE(AppendImage({1, 2, 3, {0, 255, 51, 255, 0, 102}}, 4, &set).ok());
  ASSERT_EQ(set.dimensions, 6);
  const float expected[] = {-1, 1, 1, -1, -0.6f, -0.2f};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(set.values[i], expected[i], 1e-6) << i;
  EXPECT_EQ(set.labels, std::vector<int>{4});
  EXPECT_FALSE(AppendImage({1, 1, 3, {0, 0, 0}}, 4, &set).ok());
  EXPECT_FALSE(AppendImage({1, 2, 3, {0, 0, 0}}, 4, &set).ok());
  EXPECT_EQ(set.count(), 1);
}

TEST(FashionMnistTest, RealImagesAreNearTheFloorAndNoiseIsNot) {
  const std::string path = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not installed";
  DataConfig data;
  data.path = path;
  data.split = "t10k";
  ModelConfig model;
  model.image_size = 14;
  auto dataset = ImageDataset::Open(data, model);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  auto all = LoadSubset(**dataset, 14 * 14, 3000, 7);
  ASSERT_TRUE(all.ok()) << all.status();
  const auto slice = [&](int64_t begin, int64_t count) {
    LabelledImages part;
    part.dimensions = all->dimensions;
    part.values.assign(all->values.begin() + begin * 196,
                       all->values.begin() + (begin + count) * 196);
    part.labels.assign(all->labels.begin() + begin, all->labels.begin() + begin + count);
    return part;
  };
  const LabelledImages training = slice(0, 2000), held_out = slice(2000, 500);
  auto real = EvaluateSamples(slice(2500, 500), training, held_out);
  ASSERT_TRUE(real.ok()) << real.status();
  EXPECT_LT(std::abs(real->energy_distance), 0.005);
  EXPECT_LT(std::abs(real->energy_distance_floor), 0.005);
  // Nearest-neighbour classification of Fashion-MNIST from 2,000 images is right about three times
  // in four.
  EXPECT_GT(real->class_agreement, 0.68);
  EXPECT_GT(real->class_agreement_floor, 0.68);
  LabelledImages static_noise = Normals(500, 196, 0, 0.5f, 1);
  for (size_t i = 0; i < 500; ++i) static_noise.labels[i] = static_cast<int>(i % 10);
  auto noise = EvaluateSamples(static_noise, training, held_out);
  ASSERT_TRUE(noise.ok());
  EXPECT_GT(noise->energy_distance, 0.1);
  EXPECT_LT(noise->class_agreement, 0.2);
}

}  // namespace
}  // namespace diffmoe
