// Samples of a job beside the real images that it was trained on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/data/image.h"
#include "core/eval/sample_quality.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe {

struct SampleEvaluation {
  SampleQuality quality;
  int64_t samples = 0;
  int64_t training_images = 0;  // that samples are compared with
  int64_t held_out_images = 0;  // that give the floor
  std::string held_out;         // which those are, in words
};

// Reads the job's data set, so its path must be readable here. The floor comes from the other split
// of an IDX data set; of a folder, which has one split, from a fifth of its images, kept apart in
// the comparison (not in the training). labels: the class that each image was asked for. Errors: as
// ImageDataset::Open and EvaluateSamples.
absl::StatusOr<SampleEvaluation> EvaluateAgainstData(const v1::TrainingSpec& spec,
                                                     const std::vector<Image>& images,
                                                     const std::vector<int32_t>& labels);

}  // namespace diffmoe
