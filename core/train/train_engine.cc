#include "core/train/train_engine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>

#include "core/diffusion/rectified_flow.h"
#include "core/model/embedding.h"
#include "core/parallel/gradient_tree.h"
#include "core/train/adamw.h"
#include "core/train/schedule.h"

namespace diffmoe {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

at::Tensor Leaf(const at::Tensor& value) {
  at::Tensor leaf = value.detach();
  leaf.requires_grad_(true);
  return leaf;
}

MoeOptions LayerOptions(const TrainingConfig& config, const EngineOptions& options,
                        int64_t layers) {
  MoeOptions moe;
  moe.capacity = config.model.capacity;
  moe.threshold_starts_at_zero = options.threshold_starts_at_zero;
  moe.predictor_loss_weight =
      options.sum_predictor_loss_over_layers ? 1.0 : 1.0 / static_cast<double>(layers);
  return moe;
}

}  // namespace

// The recorded computation of one unit: per segment, leaf inputs and outputs.
struct TrainEngine::UnitTape {
  std::vector<std::vector<at::Tensor>> inputs, outputs;
  at::Tensor grad_output;                      // of the last segment
  at::Tensor dresidual, dgate, dconditioning;  // running gradients on the way back
};

TrainEngine::TrainEngine(const TrainingConfig& config, Collectives& collectives,
                         const EngineOptions& options)
    : config_(config),
      options_(options),
      collectives_(collectives),
      layout_(config.model, collectives.rank(), collectives.world_size()),
      parameters_(layout_, options.dtype),
      gradients_(layout_, options.dtype) {
  parameters_.RequireGradients();
  segments_ = std::make_unique<Segments>(config_.model, parameters_);
  const MoeOptions moe =
      LayerOptions(config_, options_, std::max<int64_t>(segments_->moe_layers(), 1));
  for (int64_t i = 0; i < segments_->moe_layers(); ++i) {
    moe_layers_.push_back(std::make_unique<MoeLayer>(config_.model, segments_->moe_block(i),
                                                     parameters_, moe, collectives_));
  }
  const auto floats = at::TensorOptions().dtype(options.dtype);
  const auto zeros = [&](int64_t n) { return at::zeros({n}, floats); };
  m_dense_ = zeros(layout_.slice_elements());
  v_dense_ = zeros(layout_.slice_elements());
  ema_dense_ = zeros(layout_.slice_elements());
  m_experts_ = zeros(layout_.expert_elements());
  v_experts_ = zeros(layout_.expert_elements());
  ema_experts_ = zeros(layout_.expert_elements());
  const int64_t local_samples = config_.global_batch / collectives_.world_size();
  unit_count_ = local_samples / config_.unit_samples;
  unit_tokens_ = config_.unit_samples * config_.model.tokens_per_sample();
}

void TrainEngine::Initialize() {
  parameters_.Initialize(config_.seed);
  ema_dense_.copy_(parameters_.dense().narrow(0, layout_.slice_begin(), layout_.slice_elements()));
  ema_experts_.copy_(parameters_.experts());
}

void TrainEngine::ForwardBackward(const Batch& batch) {
  std::vector<UnitTape> tapes(static_cast<size_t>(unit_count_));
  const double waited_before = collectives_.counters().seconds, begin = Now();
  Forward(batch, tapes);
  const double waited_between = collectives_.counters().seconds, middle = Now();
  Backward(tapes);
  const double waited_after = collectives_.counters().seconds;
  phases_.forward = middle - begin - (waited_between - waited_before);
  phases_.backward = Now() - middle - (waited_after - waited_between);
  phases_.exchange = waited_after - waited_before;
}

void TrainEngine::Forward(const Batch& batch, std::vector<UnitTape>& tapes) {
  at::AutoGradMode recording(true);
  const ModelConfig& model = config_.model;
  const int64_t layers = segments_->moe_layers(), width = model.width,
                samples = config_.unit_samples;
  const at::ScalarType dtype = options_.dtype;
  const at::Tensor target = batch.images.to(dtype).sub(batch.noise.to(dtype));
  const at::Tensor noisy =
      Interpolate(batch.images.to(dtype), batch.noise.to(dtype), batch.t.to(dtype));
  const at::Tensor sinusoid = TimeSinusoid(batch.t.mul(model.time_scale), 256).to(dtype);
  const double elements = static_cast<double>(target.numel() * collectives_.world_size());
  unit_losses_.assign(tapes.size(), 0);
  unit_outputs_.assign(tapes.size(), at::Tensor());
  moe_stats_.assign(moe_layers_.size(), {});
  moe_saved_.clear();

  const auto finish = [&](size_t u, const at::Tensor& output, std::vector<at::Tensor> inputs) {
    UnitTape& tape = tapes[u];
    tape.inputs.push_back(std::move(inputs));
    tape.outputs.push_back({output});
    const FlowLoss loss = RectifiedFlowLoss(
        output, target.narrow(0, static_cast<int64_t>(u) * samples, samples), elements);
    unit_losses_[u] = loss.loss;
    unit_outputs_[u] = output.detach();
    tape.grad_output = loss.grad_output;
  };
  std::vector<SegmentState> states(tapes.size());
  at::Tensor y;
  for (int64_t segment = 0; segment <= layers; ++segment) {
    at::Tensor moe_input;
    if (segment < layers) {
      moe_input = at::empty({unit_count_ * unit_tokens_, width}, at::TensorOptions().dtype(dtype));
    }
    for (size_t u = 0; u < tapes.size(); ++u) {
      const int64_t first = static_cast<int64_t>(u) * samples;
      SegmentState& state = states[u];
      if (segment == 0) {
        const UnitInput input{noisy.narrow(0, first, samples), sinusoid.narrow(0, first, samples),
                              batch.labels.narrow(0, first, samples)};
        if (layers == 0) {
          finish(u, segments_->Dense(input), {});
          continue;
        }
        state = segments_->First(input);
        tapes[u].inputs.push_back({});
      } else {
        const SegmentState in{Leaf(state.residual), {}, Leaf(state.gate), Leaf(state.conditioning)};
        const at::Tensor y_unit =
            Leaf(y.narrow(0, static_cast<int64_t>(u) * unit_tokens_, unit_tokens_)
                     .view({samples, -1, width}));
        const std::vector<at::Tensor> inputs{in.residual, y_unit, in.gate, in.conditioning};
        if (segment == layers) {
          finish(u, segments_->Last(in, y_unit), inputs);
          continue;
        }
        state = segments_->Next(segment, in, y_unit);
        tapes[u].inputs.push_back(inputs);
      }
      tapes[u].outputs.push_back({state.residual, state.moe_input, state.gate, state.conditioning});
      moe_input.narrow(0, static_cast<int64_t>(u) * unit_tokens_, unit_tokens_)
          .copy_(state.moe_input.detach().view({unit_tokens_, width}));
    }
    if (segment == layers) break;
    at::NoGradGuard no_grad;
    const size_t i = static_cast<size_t>(segment);
    moe_saved_.emplace_back();
    y = moe_layers_[i]->Forward(moe_input, unit_tokens_, /*update_threshold=*/true,
                                &moe_saved_.back(), &moe_stats_[i]);
  }
}

void TrainEngine::Backward(std::vector<UnitTape>& tapes) {
  const int64_t layers = segments_->moe_layers(), width = config_.model.width;
  at::Tensor dmoe_input;
  for (int64_t segment = layers; segment >= 0; --segment) {
    at::Tensor dy;
    if (segment > 0) {
      dy =
          at::empty({unit_count_ * unit_tokens_, width}, at::TensorOptions().dtype(options_.dtype));
    }
    BackwardSegment(segment, tapes, dmoe_input, &dy);
    if (segment == 0) break;
    at::NoGradGuard no_grad;
    const size_t i = static_cast<size_t>(segment - 1);
    std::vector<std::vector<at::Tensor>> unit_gradients;
    dmoe_input = moe_layers_[i]->Backward(dy, *moe_saved_[i], gradients_, &unit_gradients);
    moe_saved_[i].reset();
    GradientTree tree;
    for (auto& unit : unit_gradients) tree.Add(std::move(unit));
    WriteDenseGradients(moe_layers_[i]->router_places(), tree.Take());
  }
}

void TrainEngine::BackwardSegment(int64_t segment, std::vector<UnitTape>& tapes,
                                  const at::Tensor& dmoe_input, at::Tensor* dy) {
  const bool last = segment == segments_->moe_layers();
  const std::vector<at::Tensor>& weights = segments_->parameters_of(segment);
  const size_t index = static_cast<size_t>(segment);
  GradientTree tree;
  for (size_t u = 0; u < tapes.size(); ++u) {
    UnitTape& tape = tapes[u];
    std::vector<at::Tensor> outputs = tape.outputs[index], grads;
    if (last) {
      grads = {tape.grad_output};
    } else {
      const at::Tensor dmoe =
          dmoe_input.narrow(0, static_cast<int64_t>(u) * unit_tokens_, unit_tokens_)
              .view(outputs[1].sizes());
      grads = {tape.dresidual, dmoe, tape.dgate};
      if (segment == 0) {
        grads.push_back(tape.dconditioning);
      } else {
        outputs.pop_back();  // the conditioning only passes through; its gradient is added below
      }
    }
    const size_t leaves = tape.inputs[index].size();
    std::vector<at::Tensor> inputs = tape.inputs[index];
    inputs.insert(inputs.end(), weights.begin(), weights.end());
    std::vector<at::Tensor> result = torch::autograd::grad(outputs, inputs, grads);
    tape.outputs[index].clear();
    tape.inputs[index].clear();
    if (leaves > 0) {
      tape.dresidual = result[0];
      dy->narrow(0, static_cast<int64_t>(u) * unit_tokens_, unit_tokens_)
          .copy_(result[1].view({unit_tokens_, config_.model.width}));
      tape.dgate = result[2];
      tape.dconditioning = last ? result[3] : tape.dconditioning.add(result[3]);
    }
    tree.Add({result.begin() + static_cast<int64_t>(leaves), result.end()});
  }
  WriteDenseGradients(segments_->places_of(segment), tree.Take());
}

void TrainEngine::WriteDenseGradients(const std::vector<ParameterPlace>& places,
                                      const std::vector<at::Tensor>& sums) {
  for (size_t i = 0; i < places.size(); ++i) {
    gradients_.dense()
        .narrow(0, places[i].offset, places[i].info->elements())
        .copy_(sums[i].reshape({-1}));
  }
}

double TrainingProgress(const TrainingConfig& config, int64_t step, double elapsed_seconds) {
  const double by_steps = static_cast<double>(step) / static_cast<double>(config.steps);
  const double by_time = config.minutes ? elapsed_seconds / (60 * *config.minutes) : 0;
  return std::clamp(std::max(by_steps, by_time), 0.0, 1.0);
}

}  // namespace diffmoe
