#include "client/report/evaluation.h"

#include <memory>

#include "core/base/status_macros.h"
#include "core/data/image_dataset.h"
#include "core/spec/spec_convert.h"

namespace diffmoe {
namespace {

constexpr int64_t kMaxTrainingImages = 20'000;
constexpr int64_t kMaxHeldOutImages = 1000;
constexpr uint64_t kSubsetSeed = 1;

struct RealImages {
  LabelledImages training;
  LabelledImages held_out;
  std::string held_out_words;
};

absl::StatusOr<RealImages> LoadIdx(const TrainingConfig& config, int64_t dimensions) {
  RealImages real;
  ASSIGN_OR_RETURN(const std::unique_ptr<ImageDataset> training,
                   ImageDataset::Open(config.data, config.model));
  ASSIGN_OR_RETURN(real.training,
                   LoadSubset(*training, dimensions, kMaxTrainingImages, kSubsetSeed));
  DataConfig other = config.data;
  other.split = config.data.split == "train" ? "t10k" : "train";
  ASSIGN_OR_RETURN(const std::unique_ptr<ImageDataset> held_out,
                   ImageDataset::Open(other, config.model));
  ASSIGN_OR_RETURN(real.held_out,
                   LoadSubset(*held_out, dimensions, kMaxHeldOutImages, kSubsetSeed));
  real.held_out_words = "images of the split " + other.split;
  return real;
}

absl::StatusOr<RealImages> LoadFolder(const TrainingConfig& config, int64_t dimensions) {
  RealImages real;
  ASSIGN_OR_RETURN(const std::unique_ptr<ImageDataset> dataset,
                   ImageDataset::Open(config.data, config.model));
  // In the order of a keyed permutation, so that any cut is a random one.
  ASSIGN_OR_RETURN(real.training,
                   LoadSubset(*dataset, dimensions, kMaxTrainingImages, kSubsetSeed));
  const int64_t kept = real.training.count() - real.training.count() / 5;
  real.held_out.dimensions = dimensions;
  real.held_out.values.assign(real.training.values.begin() + kept * dimensions,
                              real.training.values.end());
  real.held_out.labels.assign(real.training.labels.begin() + kept, real.training.labels.end());
  real.training.values.resize(static_cast<size_t>(kept * dimensions));
  real.training.labels.resize(static_cast<size_t>(kept));
  real.held_out_words = "a fifth of the images, kept apart from the comparison";
  return real;
}

}  // namespace

absl::StatusOr<SampleEvaluation> EvaluateAgainstData(const v1::TrainingSpec& spec,
                                                     const std::vector<Image>& images,
                                                     const std::vector<int32_t>& labels) {
  const TrainingConfig config = ToTrainingConfig(spec);
  const int64_t dimensions =
      config.model.channels * config.model.image_size * config.model.image_size;
  LabelledImages samples;
  for (size_t i = 0; i < images.size(); ++i) {
    RETURN_IF_ERROR(AppendImage(images[i], labels[i], &samples));
  }
  ASSIGN_OR_RETURN(const RealImages real, config.data.format == DataFormat::kIdx
                                              ? LoadIdx(config, dimensions)
                                              : LoadFolder(config, dimensions));
  SampleEvaluation result;
  ASSIGN_OR_RETURN(result.quality, EvaluateSamples(samples, real.training, real.held_out));
  result.samples = samples.count();
  result.training_images = real.training.count();
  result.held_out_images = real.held_out.count();
  result.held_out = real.held_out_words;
  return result;
}

}  // namespace diffmoe
