#include "worker/rank/model_executor.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/diffusion/guidance.h"
#include "core/diffusion/sampler.h"
#include "worker/error_boundary.h"

namespace diffmoe {
namespace {

// Calls that dopri5 makes in the mean; what an image says of itself before it has come far.
constexpr double kAdaptiveCalls = 60, kFirstWords = 0.05;

// A checkpoint with one request's thresholds.
class LoadedModel final : public SampleModel {
 public:
  std::string thresholds_hash() const override { return hash; }
  std::string weights_hash() const override { return checkpoint->weights_hash(); }

  std::shared_ptr<CheckpointModel> checkpoint;
  Denoiser* denoiser = nullptr;  // of the checkpoint, in the mode asked for
  NumericMode mode = NumericMode::kExact;
  bool by_gate = false;
  bool batch_topk = false;
  at::Tensor thresholds;  // [MoE layers, E] fp32; undefined for families without predictor
  std::string hash;
};

class ModelImage final : public ImageTask {
 public:
  bool done() const override { return sampler->done(); }
  int64_t steps_done() const override { return sampler->steps_done(); }
  double progress() const override { return sampler->progress(); }
  int rows() const override { return done() ? 0 : guided ? 2 : 1; }
  int64_t rows_left() const override;

  // Looks at the call that comes next.
  void Ahead() {
    if (sampler->done()) return;
    next = sampler->next();
    guided = IsGuided(model->checkpoint->process(), next.t, guidance);
  }
  void Feed(const at::Tensor& output) {
    sampler->Feed(output);
    ++usage.network_calls;
    Ahead();
  }

  std::shared_ptr<const LoadedModel> model;
  std::unique_ptr<Sampler> sampler;  // x: [1, C, H, W]
  Guidance guidance;
  bool adaptive = false;
  int64_t calls = 0;  // of the whole image, unless adaptive
  int64_t label = 0, negative_label = 0;
  NetworkCall next;
  bool guided = false;
  ImageUsage usage;
  double pairs_without = 0, pairs = 0;  // (token, layer)
};

int64_t ModelImage::rows_left() const {
  if (done()) return 0;
  const double way = std::max(1e-6, 1 - progress());
  double calls_left = static_cast<double>(calls - usage.network_calls);
  if (adaptive) {
    const double made = static_cast<double>(usage.network_calls);
    calls_left =
        progress() > kFirstWords ? made / progress() * way : std::max(1.0, kAdaptiveCalls - made);
  }
  double guided_share = 0;
  if (guidance.scale != 1) {
    guided_share = std::max(0.0, guidance.end - std::max(guidance.begin, progress())) / way;
  }
  const double rows_ahead = calls_left * (1 + std::min(1.0, guided_share));
  return std::max<int64_t>(rows(), std::llround(rows_ahead));
}

const ModelImage& Of(const ImageTask& image) { return static_cast<const ModelImage&>(image); }

// image: [C, H, W] fp32 in [-1, 1] -> uint8 [H, W, C].
std::string Pixels(const at::Tensor& image) {
  const at::Tensor planes = image.contiguous();
  const int64_t channels = planes.size(0), area = planes.size(1) * planes.size(2);
  const float* in = planes.const_data_ptr<float>();
  std::string out(static_cast<size_t>(channels * area), '\0');
  for (int64_t i = 0; i < area; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      const float value = std::clamp((in[c * area + i] + 1.0f) * 127.5f, 0.0f, 255.0f);
      if (std::isnan(value)) continue;  // black
      out[static_cast<size_t>(i * channels + c)] =
          static_cast<char>(static_cast<uint8_t>(std::lround(value)));
    }
  }
  return out;
}

at::Tensor LabelTensor(int64_t label) {
  return at::full({1}, label, at::TensorOptions().dtype(at::kLong));
}

// The rows of a group's forward; image i has its rows from first_row[i].
struct GroupRows {
  DenoiseBatch batch;
  std::vector<int64_t> first_row;
};

GroupRows RowsOf(const std::vector<ModelImage*>& images) {
  const LoadedModel& model = *images[0]->model;
  GroupRows out;
  int64_t rows = 0;
  for (const ModelImage* image : images) {
    out.first_row.push_back(rows);
    rows += image->rows();
  }
  std::vector<at::Tensor> x, thresholds;
  at::Tensor t = at::empty({rows}, at::TensorOptions().dtype(at::kFloat));
  at::Tensor labels = at::empty({rows}, at::TensorOptions().dtype(at::kLong));
  at::Tensor by_gate = at::empty({rows}, at::TensorOptions().dtype(at::kByte));
  int64_t row = 0;
  for (const ModelImage* image : images) {
    for (int half = 0; half < image->rows(); ++half, ++row) {
      x.push_back(image->next.x);
      t.data_ptr<float>()[row] = static_cast<float>(image->next.t);
      labels.data_ptr<int64_t>()[row] = half == 0 ? image->label : image->negative_label;
      by_gate.data_ptr<uint8_t>()[row] = image->model->by_gate ? 1 : 0;
      if (model.thresholds.defined()) thresholds.push_back(image->model->thresholds);
    }
  }
  const CheckpointModel& checkpoint = *model.checkpoint;
  out.batch.x = at::cat(x);
  out.batch.model_time = checkpoint.process().ModelTime(t, checkpoint.config().model.time_scale);
  out.batch.labels = labels;
  out.batch.by_gate = by_gate;
  if (!thresholds.empty()) out.batch.thresholds = at::stack(thresholds);
  return out;
}

// Adds rows [first, first + rows) of the counts to the image's usage.
void CountUse(const DenoiseCounts& counts, int64_t first, int64_t tokens, ModelImage& image) {
  const int64_t layers = counts.used.size(1), rows = image.rows();
  const int64_t* used = counts.used.const_data_ptr<int64_t>() + first * layers;
  const int64_t* without = counts.without_expert.const_data_ptr<int64_t>() + first * layers;
  std::vector<float>& capacity = image.usage.step_capacity.emplace_back();
  for (int64_t l = 0; l < layers; ++l) {
    int64_t sum = 0;
    for (int64_t r = 0; r < rows; ++r) {
      sum += used[r * layers + l];
      image.pairs_without += static_cast<double>(without[r * layers + l]);
    }
    capacity.push_back(
        static_cast<float>(static_cast<double>(sum) / static_cast<double>(rows * tokens)));
  }
  image.pairs += static_cast<double>(rows * tokens * layers);
}

absl::Status FeedOne(ModelImage& image, const at::Tensor& output) {
  return CatchErrors([&] {
    image.Feed(output);
    return absl::OkStatus();
  });
}

// Samples of a call see each other: one image, as published.
absl::Status CallAlone(ModelImage& image) {
  const CheckpointModel& checkpoint = *image.model->checkpoint;
  const Network network = [&](const at::Tensor& x, const at::Tensor& t, const at::Tensor& labels) {
    CapacityCounts counts;
    at::Tensor out = image.model->denoiser->Run(
        x, checkpoint.process().ModelTime(t, checkpoint.config().model.time_scale), labels,
        &counts);
    // Two calls of one step are one call of the receipt.
    const int64_t call = image.usage.network_calls;
    if (std::ssize(image.usage.step_capacity) <= call) image.usage.step_capacity.emplace_back();
    std::vector<float>& capacity = image.usage.step_capacity.back();
    const bool first = capacity.empty();
    for (size_t l = 0; l < counts.used.size(); ++l) {
      const float used = static_cast<float>(static_cast<double>(counts.used[l]) /
                                            static_cast<double>(counts.tokens));
      if (first) {
        capacity.push_back(used);
      } else {
        capacity[l] = (capacity[l] + used) / 2;
      }
    }
    return out;
  };
  return CatchErrors([&] {
    image.Feed(GuidedOutput(network, checkpoint.process(), image.next, LabelTensor(image.label),
                            image.negative_label, image.guidance));
    return absl::OkStatus();
  });
}

void CallGroup(const std::vector<ModelImage*>& images, const std::vector<absl::Status*>& statuses) {
  GroupRows rows;
  DenoiseCounts counts;
  at::Tensor output;
  const absl::Status status = CatchErrors([&] {
    rows = RowsOf(images);
    output = images[0]->model->denoiser->RunBatch(rows.batch, &counts);
    return absl::OkStatus();
  });
  const int64_t patch = images[0]->model->checkpoint->config().model.patch_size;
  const int64_t side = images[0]->next.x.size(-1) / patch;
  for (size_t i = 0; i < images.size(); ++i) {
    ModelImage& image = *images[i];
    *statuses[i] = status;
    if (!status.ok()) continue;
    const int64_t first = rows.first_row[i];
    CountUse(counts, first, side * side, image);
    const at::Tensor conditional = output.narrow(0, first, 1);
    *statuses[i] =
        FeedOne(image, image.guided ? MixGuidance(conditional, output.narrow(0, first + 1, 1),
                                                  image.next.x.size(1), image.guidance)
                                    : conditional.clone());
  }
}

absl::Status CheckThresholds(const SampleWork& work, int64_t layers) {
  const ModelConfig& model = work.config.model;
  if (work.thresholds.empty()) {
    if (work.rule == ThresholdRule::kDynamic) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "thresholds: expected those of a calibration for this threshold_rule, got none");
  }
  if (model.family != Family::kDiffMoe ||
      work.config.compatibility.inference_rule != InferenceRule::kPerToken) {
    return absl::InvalidArgumentError(
        "thresholds: expected none for a model without per-token thresholds, got some");
  }
  for (const std::vector<float>& layer : work.thresholds) {
    if (std::ssize(work.thresholds) == layers && std::ssize(layer) == model.experts) continue;
    return absl::InvalidArgumentError(absl::StrCat("thresholds: expected ", layers, " x ",
                                                   model.experts, ", got ", work.thresholds.size(),
                                                   " x ", layer.size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SampleModel>> ModelExecutor::Load(const SampleWork& work) {
  auto model = std::make_shared<LoadedModel>();
  ASSIGN_OR_RETURN(model->checkpoint, cache_.Get({work.job_id, work.step, work.checkpoint_epoch},
                                                 work.config, work.numeric_mode));
  model->mode = work.numeric_mode;
  model->denoiser = &model->checkpoint->Mode(work.numeric_mode);
  model->by_gate = work.rule == ThresholdRule::kGate;
  model->batch_topk = work.config.model.family == Family::kDiffMoe &&
                      work.config.compatibility.inference_rule == InferenceRule::kBatchTopK;
  RETURN_IF_ERROR(CheckThresholds(work, model->denoiser->moe_layer_count()));
  const std::vector<std::vector<float>>& chosen =
      work.thresholds.empty() ? model->checkpoint->thresholds() : work.thresholds;
  std::vector<float> flat;
  for (const std::vector<float>& layer : chosen)
    flat.insert(flat.end(), layer.begin(), layer.end());
  model->hash = absl::StrFormat("%016x", XXH3_64bits(flat.data(), flat.size() * sizeof(float)));
  if (!flat.empty()) {
    model->thresholds = at::empty({std::ssize(chosen), std::ssize(chosen[0])},
                                  at::TensorOptions().dtype(at::kFloat));
    std::memcpy(model->thresholds.data_ptr<float>(), flat.data(), flat.size() * sizeof(float));
  }
  return std::shared_ptr<const SampleModel>(model);
}

absl::StatusOr<std::unique_ptr<ImageTask>> ModelExecutor::Prepare(
    const SampleWork& work, const std::shared_ptr<const SampleModel>& model, int index) {
  const ProcessKind process = work.config.diffusion.process;
  SamplerOptions options;
  ASSIGN_OR_RETURN(options.kind, ParseSampler(work.sampler));
  options.steps = work.steps;
  options.eta = work.eta;
  ModelConfig shape = work.config.model;
  if (work.image_size > 0) shape.image_size = work.image_size;
  const uint32_t number = work.first_image + static_cast<uint32_t>(index);
  auto image = std::make_unique<ModelImage>();
  image->model = std::static_pointer_cast<const LoadedModel>(model);
  image->sampler = MakeSampler(options, process, InitialNoise(shape, work.seed, number),
                               KeyedStepNoise(shape, work.seed, number));
  image->guidance = {work.guidance, work.guidance_begin, work.guidance_end};
  // As published, where the two halves of a call see each other.
  image->guidance.joint = !image->model->batch_topk || process == ProcessKind::kDdpm;
  image->adaptive = options.kind == SamplerKind::kDopri5;
  image->calls = int64_t{work.steps} * (options.kind == SamplerKind::kHeun ? 2 : 1);
  image->label = work.classes[static_cast<size_t>(index)];
  image->negative_label = work.negative_class.value_or(static_cast<int>(shape.classes));
  image->Ahead();
  return std::unique_ptr<ImageTask>(std::move(image));
}

std::vector<absl::Status> ModelExecutor::Call(absl::Span<ImageTask* const> images) {
  at::NoGradGuard no_grad;
  using Key = std::tuple<const Denoiser*, int64_t>;  // checkpoint and mode, image side
  struct Group {
    std::vector<ModelImage*> images;
    std::vector<absl::Status*> statuses;
  };
  std::vector<absl::Status> statuses(images.size());
  std::map<Key, Group> groups;
  for (size_t i = 0; i < images.size(); ++i) {
    ModelImage& image = static_cast<ModelImage&>(*images[i]);
    if (image.model->batch_topk) {
      statuses[i] = CallAlone(image);
      continue;
    }
    Group& group = groups[{image.model->denoiser, image.next.x.size(-1)}];
    group.images.push_back(&image);
    group.statuses.push_back(&statuses[i]);
  }
  for (const auto& [key, group] : groups) CallGroup(group.images, group.statuses);
  return statuses;
}

at::Tensor ModelExecutor::Values(const ImageTask& image) const {
  const Sampler& sampler = *Of(image).sampler;
  return (sampler.done() ? sampler.x() : sampler.expected()).select(0, 0);
}

SampleImage ModelExecutor::Picture(const ImageTask& image) {
  const at::Tensor pixels = Values(image);
  SampleImage out;
  out.channels = static_cast<int>(pixels.size(0));
  out.height = static_cast<int>(pixels.size(1));
  out.width = static_cast<int>(pixels.size(2));
  out.pixels = Pixels(pixels);
  return out;
}

ImageUsage ModelExecutor::Usage(const ImageTask& image) {
  const ModelImage& of = Of(image);
  ImageUsage usage = of.usage;
  usage.zero_expert_tokens = of.pairs > 0 ? of.pairs_without / of.pairs : 0;
  return usage;
}

}  // namespace diffmoe
