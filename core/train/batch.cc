#include "core/train/batch.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "core/base/philox.h"
#include "core/data/image_dataset.h"
#include "core/diffusion/process.h"

namespace diffmoe {
namespace {

float DrawTime(const TrainingConfig& config, uint64_t step, uint32_t sample) {
  const RandomStream stream(config.seed, RandomUse::kTime, step, sample);
  if (config.diffusion.process == ProcessKind::kDdpm) return DdpmTrainingTime(stream.Uniform());
  if (config.diffusion.time_sampling == TimeSampling::kUniform) return stream.Uniform();
  return 1.0f / (1.0f + std::exp(-stream.FirstNormal()));
}

}  // namespace

Batch MakeBatch(const TrainingConfig& config, int64_t step, int rank, int world_size,
                uint64_t dataset_size, const ReadImage& read) {
  const ModelConfig& model = config.model;
  const int64_t n = config.global_batch / world_size;
  const int64_t elements = model.channels * model.image_size * model.image_size;
  const auto floats = at::TensorOptions().dtype(at::kFloat);
  Batch batch{at::empty({n, model.channels, model.image_size, model.image_size}, floats),
              at::empty({n, model.channels, model.image_size, model.image_size}, floats),
              at::empty({n}, floats), at::empty({n}, at::TensorOptions().dtype(at::kLong))};
  for (int64_t i = 0; i < n; ++i) {
    // Microbatch after microbatch, each split evenly over ranks.
    const int64_t micro = n / config.accumulation, m = i / micro;
    const uint32_t sample = static_cast<uint32_t>((m * world_size + rank) * micro + i % micro);
    const uint64_t position = static_cast<uint64_t>(step * config.global_batch) + sample;
    const KeyedPermutation order(config.seed, position / dataset_size, dataset_size);
    const std::span<float> image(batch.images.data_ptr<float>() + i * elements,
                                 static_cast<size_t>(elements));
    const int label = read(order(position % dataset_size), image);
    const uint64_t major = static_cast<uint64_t>(step);
    if (config.data.flip &&
        RandomStream(config.seed, RandomUse::kFlip, major, sample).Uniform() < 0.5f) {
      FlipHorizontal(model.channels, model.image_size, model.image_size,
                     absl::MakeSpan(image.data(), image.size()));
    }
    RandomStream(config.seed, RandomUse::kNoise, major, sample)
        .Normal({batch.noise.data_ptr<float>() + i * elements, static_cast<size_t>(elements)});
    batch.t.data_ptr<float>()[i] = DrawTime(config, major, sample);
    const bool drop = RandomStream(config.seed, RandomUse::kLabelDrop, major, sample).Uniform() <
                      static_cast<float>(config.diffusion.label_dropout);
    batch.labels.data_ptr<int64_t>()[i] = drop ? model.classes : label;
  }
  return batch;
}

}  // namespace diffmoe
