#include "core/diffusion/calibration_pass.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "core/model/embedding.h"

namespace diffmoe {
namespace {

constexpr int64_t kBatch = 16;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

CalibrationPass::CalibrationPass(const Denoiser& denoiser, const Process& process,
                                 const ModelConfig& model, const CalibrationData& data,
                                 int64_t begin, int64_t count, bool by_gate, Decide decide)
    : denoiser_(denoiser),
      process_(process),
      model_(model),
      by_gate_(by_gate),
      decide_(std::move(decide)) {
  for (int64_t i = begin; i < begin + count; i += kBatch) {
    const int64_t n = std::min(kBatch, begin + count - i);
    Input input{data.images.narrow(0, i, n),
                data.noise.narrow(0, i, n),
                {},
                data.t.narrow(0, i, n),
                data.labels.narrow(0, i, n)};
    input.noisy = process.Noisy(input.images, input.noise, input.t);
    elements_ += static_cast<double>(input.images.numel());
    tokens_ += n * model.tokens_per_sample();
    inputs_.push_back(std::move(input));
  }
  states_.resize(inputs_.size());
  routes_.resize(inputs_.size());
}

void CalibrationPass::Begin(size_t batch) {
  const Input& input = inputs_[batch];
  const at::Tensor time = process_.ModelTime(input.t, model_.time_scale);
  states_[batch] = denoiser_.segments().First({input.noisy, TimeSinusoid(time, 256), input.labels});
}

void CalibrationPass::Apply(size_t batch) {
  SegmentState& state = states_[batch];
  const Input& input = inputs_[batch];
  const at::Tensor tokens = state.moe_input.reshape({-1, model_.width});
  const int64_t samples = input.images.size(0);
  at::Tensor thresholds =
      at::empty({samples, model_.experts}, at::TensorOptions().dtype(at::kFloat));
  for (int64_t s = 0; s < samples; ++s) {
    std::ranges::copy(thresholds_.back(), thresholds.data_ptr<float>() + s * model_.experts);
  }
  const at::Tensor by_gate =
      at::full({samples}, by_gate_ ? 1 : 0, at::TensorOptions().dtype(at::kByte));
  const MoeLayer::Inferred inferred = denoiser_.moe_layer(layer_).InferSamples(
      tokens, routes_[batch], model_.tokens_per_sample(), thresholds, by_gate);
  used_ += inferred.mask.sum().item<int64_t>();
  const at::Tensor y = inferred.y.view(state.moe_input.sizes());
  if (layer_ + 1 < denoiser_.moe_layer_count()) {
    state = denoiser_.segments().Next(layer_ + 1, state, y);
    return;
  }
  const at::Tensor output = denoiser_.segments().Last(state, y);
  loss_ += process_.Loss(output, input.images, input.noise, input.noisy, input.t, elements_).loss;
  state = {};
}

void CalibrationPass::Step() {
  at::NoGradGuard no_grad;
  const double begin = Now();
  if (routing_) {
    if (layer_ == 0) Begin(batch_);
    routes_[batch_] =
        denoiser_.moe_layer(layer_).Route(states_[batch_].moe_input.reshape({-1, model_.width}));
  } else {
    Apply(batch_);
  }
  if (++batch_ == inputs_.size()) {
    batch_ = 0;
    if (routing_) {
      thresholds_.push_back(decide_(layer_, routes_));
    } else {
      layer_capacity_.push_back(static_cast<double>(used_) / static_cast<double>(tokens_));
      used_ = 0;
      ++layer_;
    }
    routing_ = !routing_;
  }
  seconds_ += Now() - begin;
}

double CalibrationPass::progress() const {
  const double phases = 2 * static_cast<double>(denoiser_.moe_layer_count());
  const double phase = 2 * static_cast<double>(layer_) + (routing_ ? 0 : 1);
  return (phase + static_cast<double>(batch_) / static_cast<double>(inputs_.size())) / phases;
}

double CalibrationPass::capacity() const {
  return std::accumulate(layer_capacity_.begin(), layer_capacity_.end(), 0.0) /
         static_cast<double>(layer_capacity_.size());
}

}  // namespace diffmoe
