#include "worker/rank/sample_request.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/diffusion/sampler_kind.h"
#include "core/eval/png.h"

namespace diffmoe {
namespace {

// dopri5 chooses its calls; this many until an image says more.
constexpr int64_t kAdaptiveCalls = 60;

absl::Status Invalid(absl::string_view field, absl::string_view expected, double got) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": expected ", expected, ", got ", got));
}

std::string HashOf(const std::string& bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

absl::StatusOr<std::string> Encoded(const SampleImage& image) {
  return EncodePng(image.height, image.width, image.channels,
                   {reinterpret_cast<const uint8_t*>(image.pixels.data()), image.pixels.size()});
}

}  // namespace

absl::Status CheckSampleWork(const SampleWork& work) {
  if (work.classes.empty()) return Invalid("classes", "one class per image", 0);
  SamplerOptions options;
  const absl::StatusOr<SamplerKind> kind = ParseSampler(work.sampler);
  if (!kind.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("sampler: ", kind.status().message()));
  }
  options.kind = *kind;
  options.steps = work.steps;
  options.eta = work.eta;
  for (const OptionFault& fault : CheckSamplerOptions(options, work.config.diffusion.process)) {
    return absl::InvalidArgumentError(absl::StrCat(fault.field, ": ", fault.description));
  }
  const ModelConfig& model = work.config.model;
  for (const int label : work.classes) {
    if (label < 0 || label >= model.classes) {
      return Invalid("classes", absl::StrCat("0 to ", model.classes - 1), label);
    }
  }
  if (work.negative_class && (*work.negative_class < 0 || *work.negative_class >= model.classes)) {
    return Invalid("negative_class", absl::StrCat("0 to ", model.classes - 1),
                   *work.negative_class);
  }
  if (!(work.guidance >= 0) || !std::isfinite(work.guidance)) {
    return Invalid("guidance", "a number from 0", work.guidance);
  }
  if (!(work.guidance_begin >= 0 && work.guidance_begin <= work.guidance_end &&
        work.guidance_end <= 1)) {
    return Invalid("guidance_interval", "0 <= begin <= end <= 1", work.guidance_begin);
  }
  if (work.image_size < 0 || work.image_size % model.patch_size != 0) {
    return Invalid("image_size", absl::StrCat("a multiple of ", model.patch_size), work.image_size);
  }
  if (work.preview_every < 0) return Invalid("preview_every", "0 or more", work.preview_every);
  return absl::OkStatus();
}

SampleRequest::SampleRequest(SampleWork work, absl::Time arrival)
    : work_(std::move(work)), arrival_(arrival) {
  const SamplerKind kind = ParseSampler(work_.sampler).value_or(SamplerKind::kEuler);
  adaptive_ = kind == SamplerKind::kDopri5;
  calls_per_image_ =
      adaptive_ ? kAdaptiveCalls : int64_t{work_.steps} * (kind == SamplerKind::kHeun ? 2 : 1);
  const double guided = work_.guidance == 1 ? 0 : work_.guidance_end - work_.guidance_begin;
  rows_per_image_ = std::llround(std::ceil(static_cast<double>(calls_per_image_) * (1 + guided)));
  const double trained = static_cast<double>(work_.config.model.image_size);
  const double side = work_.image_size == 0 ? 1 : work_.image_size / trained;
  row_weight_ = static_cast<int>(std::max(1L, std::lround(side * side)));
  weight_exact_ = side >= 1;
  image_hashes_.resize(work_.classes.size());
}

int SampleRequest::NextToPrepare(int max_ahead) const {
  return next_image_ < count() && next_image_ < next_ready_ + max_ahead ? next_image_ : -1;
}

SampleRequest::RunningImage& SampleRequest::Begin(std::unique_ptr<ImageTask> task) {
  rows_per_image_ = std::max<int64_t>(1, task->rows_left());
  calls_per_image_ = std::max<int64_t>(1, rows_per_image_ / std::max<int64_t>(1, task->rows()));
  RunningImage& image = running_[next_image_];
  image.index = next_image_++;
  image.task = std::move(task);
  return image;
}

absl::Status SampleRequest::AddDone(int index, SampleImage picture, const ImageUsage& usage) {
  const auto found = running_.find(index);
  steps_of_done_ += found->second.task->steps_done();
  running_.erase(found);
  ++images_done_;
  AddUsage(usage);
  image_hashes_[static_cast<size_t>(index)] = HashOf(picture.pixels);
  EncodedImage encoded{std::move(picture), work_.encoding};
  encoded.image.index = index;
  encoded.image.label = work_.classes[static_cast<size_t>(index)];
  if (work_.encoding == ImageEncoding::kPng) {
    ASSIGN_OR_RETURN(encoded.image.pixels, Encoded(encoded.image));
  }
  ready_.emplace(index, std::move(encoded));
  return absl::OkStatus();
}

std::vector<EncodedImage> SampleRequest::TakeReady() {
  std::vector<EncodedImage> out;
  while (!ready_.empty() && ready_.begin()->first == next_ready_) {
    out.push_back(std::move(ready_.begin()->second));
    ready_.erase(ready_.begin());
    ++next_ready_;
  }
  return out;
}

void SampleRequest::AddUsage(const ImageUsage& usage) {
  network_calls_ += usage.network_calls;
  zero_expert_calls_ += usage.zero_expert_tokens * static_cast<double>(usage.network_calls);
  if (step_capacity_.size() < usage.step_capacity.size()) {
    step_capacity_.resize(usage.step_capacity.size());
    step_images_.resize(usage.step_capacity.size());
  }
  for (size_t call = 0; call < usage.step_capacity.size(); ++call) {
    const std::vector<float>& layers = usage.step_capacity[call];
    std::vector<double>& sums = step_capacity_[call];
    sums.resize(std::max(sums.size(), layers.size()));
    for (size_t l = 0; l < layers.size(); ++l) sums[l] += static_cast<double>(layers[l]);
    ++step_images_[call];
  }
}

int64_t SampleRequest::rows_left() const {
  int64_t rows = UnpreparedImages() * rows_per_image_;
  for (const auto& [index, image] : running_) rows += image.task->rows_left();
  return rows * row_weight_;
}

int64_t SampleRequest::calls_left() const {
  int64_t calls = UnpreparedImages() > 0 ? calls_per_image_ : 0;
  for (const auto& [index, image] : running_) {
    const int64_t rows = std::max(1, image.task->rows());
    calls = std::max(calls, (image.task->rows_left() + rows - 1) / rows);
  }
  return calls;
}

int64_t SampleRequest::rows_runnable() const {
  int64_t rows = UnpreparedImages() * (work_.guidance == 1 ? 1 : 2);
  for (const auto& [index, image] : running_) rows += image.task->rows();
  return rows * row_weight_;
}

SampleProgressUpdate SampleRequest::Progress() const {
  int64_t steps = steps_of_done_, known = images_done_;
  int64_t promised = steps_of_done_;
  for (const auto& [index, image] : running_) {
    const int64_t done = image.task->steps_done();
    const double progress = image.task->progress();
    steps += done;
    if (progress <= 0) continue;
    ++known;
    promised += std::max<int64_t>(done + 1, std::llround(static_cast<double>(done) / progress));
  }
  SampleProgressUpdate out;
  out.images_done = images_done_;
  out.step = static_cast<int>(steps / count());
  out.steps = work_.steps;
  if (adaptive_) out.steps = static_cast<int>(known > 0 ? promised / known : 0);
  if (adaptive_ && images_done_ < count()) out.steps = std::max(out.steps, out.step + 1);
  return out;
}

SampleFinished SampleRequest::Finished(absl::Time now) const {
  SampleFinished out;
  out.seconds = absl::ToDoubleSeconds(now - arrival_);
  out.thresholds_hash = model->thresholds_hash();
  out.weights_hash = model->weights_hash();
  out.image_hashes = image_hashes_;
  out.network_calls = network_calls_;
  int64_t image_calls = 0;
  for (size_t call = 0; call < step_capacity_.size(); ++call) {
    const std::vector<double>& sums = step_capacity_[call];
    std::vector<float>& means = out.step_capacity.emplace_back();
    out.capacity.resize(std::max(out.capacity.size(), sums.size()));
    for (size_t l = 0; l < sums.size(); ++l) {
      means.push_back(static_cast<float>(sums[l] / static_cast<double>(step_images_[call])));
      out.capacity[l] += sums[l];
    }
    image_calls += step_images_[call];
  }
  for (double& layer : out.capacity)
    layer /= static_cast<double>(std::max<int64_t>(1, image_calls));
  out.zero_expert_tokens =
      network_calls_ > 0 ? zero_expert_calls_ / static_cast<double>(network_calls_) : 0;
  return out;
}

}  // namespace diffmoe
