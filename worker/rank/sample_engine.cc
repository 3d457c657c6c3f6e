#include "worker/rank/sample_engine.h"

#include <ATen/ops/empty.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/diffusion/rectified_flow.h"
#include "worker/error_boundary.h"
#include "worker/rank/state_reader.h"

namespace diffmoe {
namespace {

constexpr size_t kModels = 2;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

at::Tensor InitialNoise(const ModelConfig& model, uint64_t seed, int64_t image) {
  at::Tensor noise = at::empty({model.channels, model.image_size, model.image_size},
                               at::TensorOptions().dtype(at::kFloat));
  RandomStream(seed, RandomUse::kSampleNoise, 0, static_cast<uint32_t>(image))
      .Normal({noise.data_ptr<float>(), static_cast<size_t>(noise.numel())});
  return noise;
}

// [C, H, W] in [-1, 1] -> uint8 [H, W, C].
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
  model->denoiser = std::make_unique<Denoiser>(work.config.model, at::kFloat);
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
  const absl::Status status = CatchErrors([&]() -> absl::Status {
    Request request;
    ASSIGN_OR_RETURN(request.model, Load(work));
    for (size_t i = 0; i < work.classes.size(); ++i) {
      request.images.push_back(InitialNoise(work.config.model, work.seed, static_cast<int64_t>(i)));
    }
    request.work = std::move(work);
    request.begin_seconds = Now();
    RETURN_IF_ERROR(link_.PushSampleUpdate(id, SampleStarted{}));
    running_.push_back(std::move(request));
    return absl::OkStatus();
  });
  if (!status.ok()) link_.PushSampleUpdate(id, status).IgnoreError();
}

void SampleEngine::Cancel(const std::string& request_id) {
  running_.remove_if([&](const Request& request) { return request.work.request_id == request_id; });
}

void SampleEngine::Step() {
  for (auto it = running_.begin(); it != running_.end();) {
    const absl::Status status = CatchErrors([&] { return Advance(*it); });
    const bool done = status.ok() && it->step == it->work.steps;
    if (!status.ok()) link_.PushSampleUpdate(it->work.request_id, status).IgnoreError();
    it = done || !status.ok() ? running_.erase(it) : std::next(it);
  }
}

absl::Status SampleEngine::Advance(Request& request) {
  const SampleWork& work = request.work;
  if (work.deadline && absl::Now() > *work.deadline) {
    return absl::DeadlineExceededError(
        absl::StrFormat("deadline passed after %d of %d denoise steps", request.step, work.steps));
  }
  const double t = static_cast<double>(request.step) / work.steps;
  for (size_t i = 0; i < request.images.size(); ++i) {
    const at::Tensor velocity = request.model->denoiser->GuidedVelocity(
        request.images[i], t, work.classes[i], work.guidance, &request.counts);
    request.images[i] = EulerStep(request.images[i], velocity, work.steps);
  }
  ++request.step;
  RETURN_IF_ERROR(
      link_.PushSampleUpdate(work.request_id, SampleProgressUpdate{request.step, work.steps}));
  return request.step == work.steps ? Finish(request) : absl::OkStatus();
}

absl::Status SampleEngine::Finish(Request& request) {
  const SampleWork& work = request.work;
  for (size_t i = 0; i < request.images.size(); ++i) {
    const at::Tensor& image = request.images[i];
    SampleImage out;
    out.index = static_cast<int>(i);
    out.label = work.classes[i];
    out.channels = static_cast<int>(image.size(0));
    out.height = static_cast<int>(image.size(1));
    out.width = static_cast<int>(image.size(2));
    out.pixels = Pixels(image);
    RETURN_IF_ERROR(link_.PushSampleUpdate(work.request_id, std::move(out)));
  }
  SampleFinished finished;
  for (int64_t used : request.counts.used) {
    finished.capacity.push_back(static_cast<double>(used) /
                                static_cast<double>(request.counts.tokens));
  }
  finished.seconds = Now() - request.begin_seconds;
  finished.thresholds_hash = request.model->thresholds_hash;
  return link_.PushSampleUpdate(work.request_id, std::move(finished));
}

}  // namespace diffmoe
