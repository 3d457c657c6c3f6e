#include "worker/rank/sample_engine.h"

#include <ATen/ops/full.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "worker/error_boundary.h"
#include "worker/rank/state_reader.h"

namespace diffmoe {
namespace {

constexpr size_t kModels = 2;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool Done(const std::vector<std::unique_ptr<Sampler>>& samplers) {
  return std::ranges::all_of(samplers, [](const auto& sampler) { return sampler->done(); });
}

// Steps of the image that is furthest, of the total that its share of the way promises.
SampleProgressUpdate ProgressOf(const std::vector<std::unique_ptr<Sampler>>& samplers) {
  int64_t step = 0;
  double progress = 1;
  for (const auto& sampler : samplers) {
    step = std::max(step, sampler->steps_done());
    progress = std::min(progress, sampler->progress());
  }
  const int64_t promised =
      progress > 0 ? std::llround(static_cast<double>(step) / progress) : step + 1;
  const bool done = Done(samplers);
  return {static_cast<int>(step), static_cast<int>(done ? step : std::max(step + 1, promised)),
          done ? static_cast<int>(samplers.size()) : 0};
}

// image: [C, H, W] fp32 in [-1, 1] -> uint8 [H, W, C].
std::string Pixels(const at::Tensor& image) {
  const at::Tensor planes = image.contiguous();
  const int64_t channels = planes.size(0), area = planes.size(1) * planes.size(2);
  const float* in = planes.const_data_ptr<float>();
  std::string out(static_cast<size_t>(channels * area), '\0');
  for (int64_t i = 0; i < area; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      const float value = std::clamp((in[c * area + i] + 1.0f) * 127.5f, 0.0f, 255.0f);
      out[static_cast<size_t>(i * channels + c)] =
          static_cast<char>(static_cast<uint8_t>(std::lround(value)));
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SampleEngine::Model>> SampleEngine::Load(
    const SampleWork& work) {
  for (const auto& model : models_) {
    if (model->job_id == work.job_id && model->step == work.step) return model;
  }
  ASSIGN_OR_RETURN(const CheckpointManifest manifest, link_.GetManifest(work.job_id, work.step));
  auto model = std::make_shared<Model>();
  model->job_id = work.job_id;
  model->step = work.step;
  MoeOptions options;
  options.inference_rule = work.config.compatibility.inference_rule;
  model->denoiser = std::make_unique<Denoiser>(work.config.model, at::kFloat, options);
  model->process = MakeProcess(work.config.diffusion);
  std::vector<WantedRun> wanted;
  for (const ParameterInfo& info : model->denoiser->layout().infos()) {
    wanted.push_back({"ema/" + info.name, info.shape, 0, info.elements(),
                      model->denoiser->parameters().at(info.name).data_ptr<float>()});
  }
  RETURN_IF_ERROR(ReadState(link_, manifest, wanted));
  const CheckpointSummaryData& summary = manifest.summary;
  std::vector<std::vector<float>> thresholds;
  for (size_t i = 0; i < summary.blocks.size(); ++i) {
    const auto first = summary.thresholds.begin() + static_cast<int64_t>(i) * summary.experts;
    thresholds.emplace_back(first, first + summary.experts);
  }
  model->denoiser->SetThresholds(thresholds);
  model->thresholds_hash = absl::StrFormat(
      "%016x", XXH3_64bits(summary.thresholds.data(), summary.thresholds.size() * sizeof(float)));
  models_.push_front(model);
  if (models_.size() > kModels) models_.pop_back();
  LogInfo("rank", "loaded a checkpoint", {{"job", work.job_id}, {"step", work.step}});
  return std::shared_ptr<const Model>(model);
}

void SampleEngine::Add(SampleWork work) {
  const std::string id = work.request_id;
  // A task may be sent again after the worker's stream broke.
  const bool known = std::any_of(running_.begin(), running_.end(),
                                 [&](const Request& other) { return other.work.request_id == id; });
  if (known) return;
  const ActivityScope scope(&link_.activity(), "loading a checkpoint for request ", id);
  const absl::Status status = CatchErrors([&]() -> absl::Status {
    Request request;
    ASSIGN_OR_RETURN(request.model, Load(work));
    request.work = std::move(work);
    RETURN_IF_ERROR(Prepare(request));
    request.begin_seconds = Now();
    RETURN_IF_ERROR(link_.PushSampleUpdate(id, SampleStarted{}));
    running_.push_back(std::move(request));
    return absl::OkStatus();
  });
  if (!status.ok()) link_.PushSampleUpdate(id, status).IgnoreError();
}

absl::Status SampleEngine::Prepare(Request& request) {
  const SampleWork& work = request.work;
  const ProcessKind process = work.config.diffusion.process;
  SamplerOptions options;
  ASSIGN_OR_RETURN(options.kind, ParseSampler(work.sampler));
  options.steps = work.steps;
  options.eta = work.eta;
  for (const OptionFault& fault : CheckSamplerOptions(options, process)) {
    return absl::InvalidArgumentError(absl::StrCat(fault.field, ": ", fault.description));
  }
  const ModelConfig& model = work.config.model;
  for (size_t i = 0; i < work.classes.size(); ++i) {
    const uint32_t image = static_cast<uint32_t>(i);
    request.samplers.push_back(MakeSampler(options, process, InitialNoise(model, work.seed, image),
                                           KeyedStepNoise(model, work.seed, image)));
  }
  request.guidance = {work.guidance, work.guidance_begin, work.guidance_end};
  // As published, where the two halves of a call see each other.
  request.guidance.joint = work.config.compatibility.inference_rule == InferenceRule::kPerToken ||
                           process == ProcessKind::kDdpm;
  return absl::OkStatus();
}

void SampleEngine::Cancel(const std::string& request_id) {
  running_.remove_if([&](const Request& request) { return request.work.request_id == request_id; });
}

void SampleEngine::Step() {
  for (auto it = running_.begin(); it != running_.end();) {
    const ActivityScope scope(&link_.activity(), "a denoise step of request ", it->work.request_id);
    const absl::Status status = CatchErrors([&] { return Advance(*it); });
    const bool done = status.ok() && Done(it->samplers);
    if (!status.ok()) link_.PushSampleUpdate(it->work.request_id, status).IgnoreError();
    it = done || !status.ok() ? running_.erase(it) : std::next(it);
  }
}

absl::Status SampleEngine::Advance(Request& request) {
  const SampleWork& work = request.work;
  if (work.deadline && absl::Now() > *work.deadline) {
    const SampleProgressUpdate progress = ProgressOf(request.samplers);
    return absl::DeadlineExceededError(absl::StrFormat(
        "deadline passed after %d of %d denoise steps", progress.step, progress.steps));
  }
  for (size_t i = 0; i < request.samplers.size(); ++i) AdvanceImage(request, i);
  RETURN_IF_ERROR(link_.PushSampleUpdate(work.request_id, ProgressOf(request.samplers)));
  return Done(request.samplers) ? Finish(request) : absl::OkStatus();
}

void SampleEngine::AdvanceImage(Request& request, size_t image) {
  Sampler& sampler = *request.samplers[image];
  const ModelConfig& model = request.work.config.model;
  const Network network = [&](const at::Tensor& x, const at::Tensor& t, const at::Tensor& labels) {
    return request.model->denoiser->Run(x, request.model->process->ModelTime(t, model.time_scale),
                                        labels, &request.counts);
  };
  const at::Tensor label =
      at::full({1}, request.work.classes[image], at::TensorOptions().dtype(at::kLong));
  const int64_t steps = sampler.steps_done();
  while (!sampler.done() && sampler.steps_done() == steps) {
    sampler.Feed(GuidedOutput(network, *request.model->process, sampler.next(), label,
                              model.classes, request.guidance));
    ++request.network_calls;
  }
}

absl::Status SampleEngine::Finish(Request& request) {
  const SampleWork& work = request.work;
  for (size_t i = 0; i < request.samplers.size(); ++i) {
    const at::Tensor image = request.samplers[i]->x().select(0, 0);
    EncodedImage encoded;
    SampleImage& out = encoded.image;
    out.index = static_cast<int>(i);
    out.label = work.classes[i];
    out.channels = static_cast<int>(image.size(0));
    out.height = static_cast<int>(image.size(1));
    out.width = static_cast<int>(image.size(2));
    out.pixels = Pixels(image);
    RETURN_IF_ERROR(link_.PushSampleUpdate(work.request_id, std::move(encoded)));
  }
  SampleFinished finished;
  for (int64_t used : request.counts.used) {
    finished.capacity.push_back(static_cast<double>(used) /
                                static_cast<double>(request.counts.tokens));
  }
  finished.seconds = Now() - request.begin_seconds;
  finished.thresholds_hash = request.model->thresholds_hash;
  finished.network_calls = request.network_calls;
  return link_.PushSampleUpdate(work.request_id, std::move(finished));
}

}  // namespace diffmoe
