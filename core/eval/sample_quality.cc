#include "core/eval/sample_quality.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/eval/distance_kernel.h"

namespace diffmoe {
namespace {

constexpr int64_t kQueries = PackedVectors::kQueries;
constexpr int64_t kBlock = PackedVectors::kBlock;

// Calls visit(query, reference, squared distance) for all pairs; for one query references come in
// ascending order. References below first_reference(query) may be left out.
template <typename Visit, typename First>
void ForEachPair(const LabelledImages& queries, const PackedVectors& reference,
                 First first_reference, Visit visit) {
  float distances[kQueries][kBlock];
  for (int64_t begin = 0; begin < queries.count(); begin += kQueries) {
    const int64_t rows = std::min(kQueries, queries.count() - begin);
    const float* pointers[kQueries];
    for (int64_t q = 0; q < kQueries; ++q) {
      pointers[q] = queries.values.data() + (begin + std::min(q, rows - 1)) * queries.dimensions;
    }
    for (int64_t block = first_reference(begin) / kBlock; block < reference.blocks(); ++block) {
      reference.SquaredDistances(pointers, block, distances);
      const int64_t columns = std::min(kBlock, reference.count() - block * kBlock);
      for (int64_t q = 0; q < rows; ++q) {
        for (int64_t i = 0; i < columns; ++i) visit(begin + q, block * kBlock + i, distances[q][i]);
      }
    }
  }
}

// Mean distance over all pairs of two sets.
double MeanBetween(const LabelledImages& a, const PackedVectors& b) {
  double sum = 0;
  ForEachPair(
      a, b, [](int64_t) { return int64_t{0}; },
      [&](int64_t, int64_t, float squared) { sum += std::sqrt(static_cast<double>(squared)); });
  return sum / (static_cast<double>(a.count()) * static_cast<double>(b.count()) *
                std::sqrt(static_cast<double>(a.dimensions)));
}

// Mean distance over pairs of different members of one set.
double MeanWithin(const LabelledImages& a, const PackedVectors& packed) {
  double sum = 0;
  ForEachPair(
      a, packed, [](int64_t begin) { return begin; },
      [&](int64_t i, int64_t j, float squared) {
        if (j > i) sum += std::sqrt(static_cast<double>(squared));
      });
  const double count = static_cast<double>(a.count());
  return sum / (count * (count - 1) / 2 * std::sqrt(static_cast<double>(a.dimensions)));
}

LabelledImages Subset(const LabelledImages& set, int64_t count, uint64_t seed) {
  if (set.count() <= count) return set;
  LabelledImages subset;
  subset.dimensions = set.dimensions;
  const KeyedPermutation order(seed, 0, set.count());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = static_cast<int64_t>(order(i));
    const auto begin = set.values.begin() + index * set.dimensions;
    subset.values.insert(subset.values.end(), begin, begin + set.dimensions);
    subset.labels.push_back(set.labels[index]);
  }
  return subset;
}

absl::Status CheckSet(const LabelledImages& set, const char* name, int64_t dimensions) {
  if (set.dimensions < 1 || set.dimensions != dimensions ||
      static_cast<int64_t>(set.values.size()) != set.count() * set.dimensions) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", set.values.size(), " values for ",
                                                   set.count(), " images of ", set.dimensions,
                                                   " values, expected ", dimensions, " each"));
  }
  if (set.count() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": ", set.count(), " images, expected at least 2"));
  }
  for (size_t i = 0; i < set.values.size(); ++i) {
    if (!std::isfinite(set.values[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": image ", i / set.dimensions, " has a value that isn't finite"));
    }
  }
  return absl::OkStatus();
}

double Agreement(const LabelledImages& queries, const LabelledImages& reference,
                 const std::vector<Nearest>& nearest) {
  int64_t hits = 0;
  for (int64_t i = 0; i < queries.count(); ++i) {
    hits += queries.labels[i] == reference.labels[nearest[i].index];
  }
  return static_cast<double>(hits) / static_cast<double>(queries.count());
}

double MeanDistance(const std::vector<Nearest>& nearest) {
  double sum = 0;
  for (const Nearest& one : nearest) sum += one.distance;
  return sum / static_cast<double>(nearest.size());
}

}  // namespace

absl::StatusOr<LabelledImages> LoadSubset(const ImageDataset& dataset, int64_t dimensions,
                                          int64_t count, uint64_t seed) {
  LabelledImages set;
  set.dimensions = dimensions;
  const int64_t kept = std::min(count, dataset.size());
  set.values.resize(static_cast<size_t>(kept * dimensions));
  set.labels.resize(static_cast<size_t>(kept));
  const KeyedPermutation order(seed, 0, dataset.size());
  for (int64_t i = 0; i < kept; ++i) {
    RETURN_IF_ERROR(dataset.Read(static_cast<int64_t>(order(i)),
                                 absl::MakeSpan(set.values).subspan(i * dimensions, dimensions),
                                 &set.labels[i]));
  }
  return set;
}

absl::Status AppendImage(const Image& image, int label, LabelledImages* set) {
  const int64_t area = int64_t{image.height} * image.width;
  const int64_t dimensions = area * image.channels;
  if (set->dimensions == 0) set->dimensions = dimensions;
  if (dimensions != set->dimensions || static_cast<int64_t>(image.pixels.size()) != dimensions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an image of ", image.height, "x", image.width, "x", image.channels, " with ",
        image.pixels.size(), " bytes doesn't fit a set of ", set->dimensions, " values per image"));
  }
  for (int64_t channel = 0; channel < image.channels; ++channel) {
    for (int64_t i = 0; i < area; ++i) {
      set->values.push_back(
          static_cast<float>(image.pixels[i * image.channels + channel]) / 127.5f - 1.0f);
    }
  }
  set->labels.push_back(label);
  return absl::OkStatus();
}

double EnergyDistance(const LabelledImages& a, const LabelledImages& b) {
  const PackedVectors packed_a(a.values, a.dimensions), packed_b(b.values, b.dimensions);
  return 2 * MeanBetween(a, packed_b) - MeanWithin(a, packed_a) - MeanWithin(b, packed_b);
}

std::vector<Nearest> NearestImages(const LabelledImages& queries, const LabelledImages& reference) {
  std::vector<float> best(queries.count(), std::numeric_limits<float>::infinity());
  std::vector<Nearest> nearest(queries.count());
  const PackedVectors packed(reference.values, reference.dimensions);
  ForEachPair(
      queries, packed, [](int64_t) { return int64_t{0}; },
      [&](int64_t query, int64_t index, float squared) {
        if (squared < best[query]) {
          best[query] = squared;
          nearest[query].index = index;
        }
      });
  for (int64_t i = 0; i < queries.count(); ++i) {
    nearest[i].distance =
        std::sqrt(static_cast<double>(best[i]) / static_cast<double>(queries.dimensions));
  }
  return nearest;
}

absl::StatusOr<SampleQuality> EvaluateSamples(const LabelledImages& samples,
                                              const LabelledImages& training,
                                              const LabelledImages& held_out,
                                              const EvaluationOptions& options) {
  RETURN_IF_ERROR(CheckSet(training, "training images", training.dimensions));
  RETURN_IF_ERROR(CheckSet(samples, "samples", training.dimensions));
  RETURN_IF_ERROR(CheckSet(held_out, "held-out images", training.dimensions));
  if (options.max_energy_images < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_energy_images is ", options.max_energy_images, ", expected at least 2"));
  }
  SampleQuality quality;
  {
    const LabelledImages some = Subset(samples, options.max_energy_images, options.seed);
    const LabelledImages real = Subset(training, options.max_energy_images, options.seed);
    const LabelledImages other = Subset(held_out, options.max_energy_images, options.seed);
    const PackedVectors packed(real.values, real.dimensions);
    const double within_real = MeanWithin(real, packed);
    const auto distance = [&](const LabelledImages& set) {
      return 2 * MeanBetween(set, packed) -
             MeanWithin(set, PackedVectors(set.values, set.dimensions)) - within_real;
    };
    quality.energy_distance = distance(some);
    quality.energy_distance_floor = distance(other);
  }
  const std::vector<Nearest> of_samples = NearestImages(samples, training);
  const std::vector<Nearest> of_held_out = NearestImages(held_out, training);
  quality.class_agreement = Agreement(samples, training, of_samples);
  quality.class_agreement_floor = Agreement(held_out, training, of_held_out);
  quality.nearest_distance = MeanDistance(of_samples);
  quality.nearest_distance_floor = MeanDistance(of_held_out);
  for (const Nearest& one : of_samples) quality.nearest.push_back(one.index);
  return quality;
}

}  // namespace diffmoe
