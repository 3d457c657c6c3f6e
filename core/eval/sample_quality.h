// How close samples are to real images, each number beside its floor: the same number for real
// images held out from training. All in pixel space, without any network; plain functions without
// state.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/data/image.h"
#include "core/data/image_dataset.h"

namespace diffmoe {

// Images as vectors, with the class that each shows (real) or was asked for (sample).
struct LabelledImages {
  int64_t dimensions = 0;     // values per image
  std::vector<float> values;  // [count, dimensions], in [-1, 1]
  std::vector<int> labels;    // [count]

  int64_t count() const { return static_cast<int64_t>(labels.size()); }
};

// `count` images (or all, if fewer) chosen by a permutation keyed by `seed`.
absl::StatusOr<LabelledImages> LoadSubset(const ImageDataset& dataset, int64_t dimensions,
                                          int64_t count, uint64_t seed);

// Appends one image, as planes in [-1, 1]. INVALID_ARGUMENT when its size differs from the set's.
absl::Status AppendImage(const Image& image, int label, LabelledImages* set);

struct EvaluationOptions {
  // The energy distance takes at most this many images of each set, chosen by `seed`; its cost
  // grows with the square.
  int64_t max_energy_images = 2000;
  uint64_t seed = 0;
};

struct SampleQuality {
  // Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| of samples to training images, as an unbiased
  // U-statistic (Szekely and Rizzo, "Energy statistics", 2013): zero in expectation for equal
  // distributions, so it can be slightly negative.
  // |.| is the root mean square difference per pixel value.
  double energy_distance = 0;
  double energy_distance_floor = 0;
  // Share of samples whose nearest training image shows the class that was asked for; held-out
  // images and their own class.
  double class_agreement = 0;
  double class_agreement_floor = 0;
  // Mean |.| from a sample to its nearest training image. Far below the floor means copies of
  // training images.
  double nearest_distance = 0;
  double nearest_distance_floor = 0;
  // Index of the nearest training image of each sample.
  std::vector<int64_t> nearest;
};

// INVALID_ARGUMENT when a set has fewer than two images, sizes differ or a value isn't finite.
absl::StatusOr<SampleQuality> EvaluateSamples(const LabelledImages& samples,
                                              const LabelledImages& training,
                                              const LabelledImages& held_out,
                                              const EvaluationOptions& options = {});

// The parts. Both sets must have the same dimensions.
double EnergyDistance(const LabelledImages& a, const LabelledImages& b);

struct Nearest {
  int64_t index = 0;    // smallest index among equals
  double distance = 0;  // root mean square difference
};
std::vector<Nearest> NearestImages(const LabelledImages& queries, const LabelledImages& reference);

}  // namespace diffmoe
