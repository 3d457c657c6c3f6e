#include "core/train/train_engine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "core/model/embedding.h"
#include "core/parallel/gradient_tree.h"
#include "core/train/expert_replicas.h"

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

MoeOptions LayerOptions(const TrainingConfig& config, int64_t layers) {
  const double microbatches = static_cast<double>(config.accumulation);
  MoeOptions moe;
  moe.threshold_init = config.compatibility.threshold_init;
  moe.inference_rule = config.compatibility.inference_rule;
  moe.round_capacity_down = config.compatibility.round_capacity_down;
  moe.predictor_loss_weight =
      (config.compatibility.sum_predictor_loss_over_layers ? 1.0
                                                           : 1.0 / static_cast<double>(layers)) /
      microbatches;
  moe.balance_loss_weight = 1.0 / microbatches;
  return moe;
}

// The blocks that a segment goes through, in words.
std::string SegmentWords(const Segments& segments, int64_t segment, int64_t depth) {
  const int64_t first = segment == 0 ? 0 : segments.moe_block(segment - 1) + 1;
  const int64_t last = segment < segments.moe_layers() ? segments.moe_block(segment) : depth - 1;
  if (first > last) return "the output layer";
  return first == last ? absl::StrCat("block ", first)
                       : absl::StrCat("blocks ", first, " to ", last);
}

Batch Part(const Batch& batch, int64_t first, int64_t samples) {
  return {batch.images.narrow(0, first, samples), batch.noise.narrow(0, first, samples),
          batch.t.narrow(0, first, samples), batch.labels.narrow(0, first, samples)};
}

}  // namespace

// The recorded computation of one unit. Per segment: leaf inputs (residual, MoE output, gate,
// conditioning; none for the first) and outputs (residual, MoE input, gate, conditioning; the
// network's output for the last). With recomputation outputs are made again in the backward pass.
struct TrainEngine::UnitTape {
  UnitInput input;
  std::vector<std::vector<at::Tensor>> inputs, outputs;
  at::Tensor grad_output;                      // of the last segment
  at::Tensor dresidual, dgate, dconditioning;  // running gradients on the way back
};

TrainEngine::TrainEngine(const TrainingConfig& config, Collectives& collectives,
                         const EngineOptions& options)
    : config_(config),
      options_(options),
      collectives_(collectives),
      process_(MakeProcess(config.diffusion)),
      layout_(config.model, collectives.rank(), collectives.world_size(), config.expert_parallel,
              /*local_rows=*/!config.deterministic),
      parameters_(layout_, options.dtype),
      gradients_(layout_, options.dtype) {
  if (config_.precision == Precision::kBf16) {
    rounded_ = std::make_unique<Parameters>(layout_, at::kBFloat16);
  }
  Parameters& compute = rounded_ ? *rounded_ : parameters_;
  compute.RequireGradients();
  segments_ = std::make_unique<Segments>(config_.model, compute);
  MoeOptions moe = LayerOptions(config_, std::max<int64_t>(segments_->moe_layers(), 1));
  moe.threshold_decay = options_.threshold_decay;
  for (int64_t i = 0; i < segments_->moe_layers(); ++i) {
    moe_layers_.push_back(std::make_unique<MoeLayer>(config_.model, segments_->moe_block(i),
                                                     parameters_, compute, moe, collectives_));
  }
  for (int64_t i = 0; i < segments_->count(); ++i) {
    segment_words_.push_back(SegmentWords(*segments_, i, config_.model.depth));
  }
  for (const auto& layer : moe_layers_) {
    moe_words_.push_back(absl::StrCat("the MoE layer of block ", layer->block()));
  }
  m_dense_ = Zeros(layout_.slice_elements());
  v_dense_ = Zeros(layout_.slice_elements());
  ema_dense_ = Zeros(layout_.slice_elements());
  m_experts_ = Zeros(layout_.owned_elements());
  v_experts_ = Zeros(layout_.owned_elements());
  ema_experts_ = Zeros(layout_.owned_elements());
  if (config_.accumulation > 1) {
    dense_sum_ = Zeros(layout_.slice_elements());
    expert_sum_ = Zeros(layout_.expert_elements());
  }
  const int64_t local_samples =
      config_.global_batch / config_.accumulation / collectives_.world_size();
  unit_samples_ = config_.deterministic ? config_.unit_samples : local_samples;
  unit_count_ = local_samples / unit_samples_;
  unit_tokens_ = unit_samples_ * config_.model.tokens_per_sample();
}

at::Tensor TrainEngine::Zeros(int64_t elements) const {
  return at::zeros({elements}, at::TensorOptions().dtype(options_.dtype));
}

void TrainEngine::Initialize() {
  parameters_.Initialize(config_.seed);
  StartAverage();
}

void TrainEngine::StartAverage() {
  ema_dense_.copy_(parameters_.dense().narrow(0, layout_.slice_begin(), layout_.slice_elements()));
  for (const OwnedRun& run : layout_.owned_experts()) {
    const int64_t elements = run.place.info->elements();
    ema_experts_.narrow(0, run.state_offset, elements)
        .copy_(parameters_.experts().narrow(0, run.place.offset, elements));
  }
  RefreshComputeWeights();
}

void TrainEngine::RefreshComputeWeights() {
  if (!rounded_) return;
  at::NoGradGuard no_grad;
  rounded_->dense().detach().copy_(parameters_.dense());
  rounded_->experts().detach().copy_(parameters_.experts());
}

void TrainEngine::ForwardBackward(const Batch& batch) {
  phases_ = {};
  unit_losses_.clear();
  unit_outputs_.clear();
  moe_stats_.clear();
  selections_.clear();
  quantiles_.clear();
  const int64_t samples = unit_count_ * unit_samples_;
  for (int64_t m = 0; m < config_.accumulation; ++m) {
    std::vector<UnitTape> tapes(static_cast<size_t>(unit_count_));
    const double waited_before = collectives_.counters().seconds, begin = Now();
    Forward(Part(batch, m * samples, samples), tapes);
    const double waited_between = collectives_.counters().seconds, middle = Now();
    Backward(tapes);
    const double waited_after = collectives_.counters().seconds, end = Now();
    ReduceGradients(m);
    phases_.forward += middle - begin - (waited_between - waited_before);
    phases_.backward += end - middle - (waited_after - waited_between);
    phases_.exchange += waited_after - waited_before;
    phases_.reduce += Now() - end;
  }
  UpdateThresholds();
}

void TrainEngine::FinishUnit(const Batch& batch, int64_t unit, UnitTape& tape,
                             const at::Tensor& output) {
  const Batch part = Part(batch, unit * unit_samples_, unit_samples_);
  const at::Tensor x = part.images.to(options_.dtype), noise = part.noise.to(options_.dtype);
  const double elements =
      static_cast<double>(config_.global_batch) * static_cast<double>(x[0].numel());
  const ProcessLoss loss = process_->Loss(output.detach().to(options_.dtype), x, noise,
                                          process_->Noisy(x, noise, part.t), part.t, elements);
  unit_losses_.push_back(loss.loss);
  unit_outputs_.push_back(output.detach());
  tape.grad_output = loss.grad_output.to(output.scalar_type());
}

std::vector<at::Tensor> TrainEngine::RunSegment(int64_t segment, UnitTape& tape) const {
  const int64_t layers = segments_->moe_layers();
  if (layers == 0) return {segments_->Dense(tape.input)};
  SegmentState out;
  if (segment == 0) {
    out = segments_->First(tape.input);
  } else {
    const std::vector<at::Tensor>& in = tape.inputs[static_cast<size_t>(segment)];
    const SegmentState state{in[0], {}, in[2], in[3]};
    if (segment == layers) return {segments_->Last(state, in[1])};
    out = segments_->Next(segment, state, in[1]);
  }
  return {out.residual, out.moe_input, out.gate, out.conditioning};
}

void TrainEngine::Forward(const Batch& batch, std::vector<UnitTape>& tapes) {
  at::AutoGradMode recording(!config_.recompute);
  const ModelConfig& model = config_.model;
  const int64_t layers = segments_->moe_layers();
  const at::ScalarType compute = compute_dtype();
  const at::Tensor noisy =
      process_->Noisy(batch.images.to(options_.dtype), batch.noise.to(options_.dtype), batch.t)
          .to(compute);
  const at::Tensor sinusoid =
      TimeSinusoid(process_->ModelTime(batch.t, model.time_scale), 256).to(compute);
  moe_stats_.emplace_back(moe_layers_.size());
  selections_.emplace_back();
  quantiles_.emplace_back();
  moe_saved_.clear();
  const auto rows_of = [&](const at::Tensor& tokens, size_t u) {
    return tokens.narrow(0, static_cast<int64_t>(u) * unit_tokens_, unit_tokens_);
  };
  at::Tensor y;  // output of the MoE layer in front of the segment
  for (int64_t segment = 0; segment <= layers; ++segment) {
    at::Tensor moe_input;
    if (segment < layers) {
      moe_input =
          at::empty({unit_count_ * unit_tokens_, model.width}, at::TensorOptions().dtype(compute));
    }
    std::optional<ActivityScope> scope(std::in_place, options_.activity, "forward of ",
                                       segment_words_[static_cast<size_t>(segment)]);
    for (size_t u = 0; u < tapes.size(); ++u) {
      UnitTape& tape = tapes[u];
      const int64_t first = static_cast<int64_t>(u) * unit_samples_;
      std::vector<at::Tensor> inputs;
      if (segment == 0) {
        tape.input = {noisy.narrow(0, first, unit_samples_),
                      sinusoid.narrow(0, first, unit_samples_),
                      batch.labels.narrow(0, first, unit_samples_)};
      } else {
        const std::vector<at::Tensor>& before = tape.outputs.back();
        inputs = {Leaf(before[0]), Leaf(rows_of(y, u).view({unit_samples_, -1, model.width})),
                  Leaf(before[2]), Leaf(before[3])};
        if (config_.recompute) tape.outputs.back().clear();
      }
      tape.inputs.push_back(std::move(inputs));
      tape.outputs.push_back(RunSegment(segment, tape));
      if (segment == layers) {
        FinishUnit(batch, static_cast<int64_t>(u), tape, tape.outputs.back()[0]);
        if (config_.recompute) tape.outputs.back().clear();
      } else {
        rows_of(moe_input, u)
            .copy_(tape.outputs.back()[1].detach().view({unit_tokens_, model.width}));
        if (config_.recompute) tape.outputs.back()[1] = at::Tensor();
      }
      Advance();
    }
    if (segment == layers) break;
    at::NoGradGuard no_grad;
    const size_t i = static_cast<size_t>(segment);
    scope.emplace(options_.activity, "forward of ", moe_words_[i]);
    MoeLayer::SavedPtr& saved = moe_saved_.emplace_back();
    y = moe_layers_[i]->Forward(moe_input, unit_tokens_, !config_.recompute, &saved,
                                &moe_stats_.back()[i]);
    selections_.back().push_back(MoeLayer::Mask(*saved));
    quantiles_.back().push_back(MoeLayer::Quantiles(*saved));
  }
}

void TrainEngine::UpdateThresholds() {
  for (size_t i = 0; i < moe_layers_.size(); ++i) {
    if (!moe_layers_[i]->has_predictor()) continue;
    at::Tensor sum = quantiles_.front()[i].clone();
    for (size_t m = 1; m < quantiles_.size(); ++m) sum.add_(quantiles_[m][i]);
    moe_layers_[i]->UpdateThreshold(sum.div_(static_cast<double>(quantiles_.size())));
  }
}

void TrainEngine::Backward(std::vector<UnitTape>& tapes) {
  const int64_t layers = segments_->moe_layers();
  at::Tensor dmoe_input;
  for (int64_t segment = layers; segment >= 0; --segment) {
    at::Tensor dy;
    if (segment > 0) {
      dy = at::empty({unit_count_ * unit_tokens_, config_.model.width},
                     at::TensorOptions().dtype(compute_dtype()));
    }
    std::optional<ActivityScope> scope(std::in_place, options_.activity, "backward of ",
                                       segment_words_[static_cast<size_t>(segment)]);
    BackwardSegment(segment, tapes, dmoe_input, &dy);
    if (segment == 0) break;
    at::NoGradGuard no_grad;
    const size_t i = static_cast<size_t>(segment - 1);
    std::vector<std::vector<at::Tensor>> unit_gradients;
    scope.emplace(options_.activity, "backward of ", moe_words_[i]);
    dmoe_input = moe_layers_[i]->Backward(dy, *moe_saved_[i], gradients_, &unit_gradients);
    moe_saved_[i].reset();
    GradientTree tree;
    for (auto& unit : unit_gradients) tree.Add(std::move(unit));
    WriteDenseGradients(moe_layers_[i]->unit_places(), tree.Take());
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
    std::vector<at::Tensor> outputs = std::move(tape.outputs[index]), grads;
    if (config_.recompute) {
      at::AutoGradMode recording(true);
      outputs = RunSegment(segment, tape);
    }
    const int64_t begin = static_cast<int64_t>(u) * unit_tokens_;
    if (last) {
      grads = {tape.grad_output};
    } else {
      grads = {tape.dresidual, dmoe_input.narrow(0, begin, unit_tokens_).view(outputs[1].sizes()),
               tape.dgate};
      if (segment == 0) {
        grads.push_back(tape.dconditioning);
      } else {
        outputs.pop_back();  // the conditioning only passes through; its gradient is added below
      }
    }
    std::vector<at::Tensor> inputs = std::move(tape.inputs[index]);
    const size_t leaves = inputs.size();
    inputs.insert(inputs.end(), weights.begin(), weights.end());
    std::vector<at::Tensor> result = torch::autograd::grad(outputs, inputs, grads);
    tape.inputs[index].clear();
    tape.outputs[index].clear();
    if (leaves > 0) {
      tape.dresidual = result[0];
      dy->narrow(0, begin, unit_tokens_).copy_(result[1].view({unit_tokens_, -1}));
      tape.dgate = result[2];
      tape.dconditioning = last ? result[3] : tape.dconditioning.add(result[3]);
    }
    std::vector<at::Tensor> leaf;
    for (size_t i = leaves; i < result.size(); ++i) leaf.push_back(result[i].to(options_.dtype));
    result.clear();
    tree.Add(std::move(leaf));
    Advance();
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

void TrainEngine::ReduceGradients(int64_t microbatch) {
  const at::Tensor slice = ReduceScatterTree(collectives_, gradients_.dense(), "gradient sum");
  SumExpertGradients(collectives_, gradients_);
  if (Planted(Fault::kExpertGradientTimesRanks)) {
    gradients_.experts().mul_(static_cast<double>(collectives_.world_size()));
  }
  gradient_slice_ = slice;
  if (config_.accumulation > 1) {
    // Whole sums of a microbatch are added, so the order doesn't depend on the number of ranks.
    if (microbatch == 0) {
      dense_sum_.copy_(slice);
      expert_sum_.copy_(gradients_.experts());
    } else {
      dense_sum_.add_(slice);
      expert_sum_.add_(gradients_.experts());
    }
    if (microbatch + 1 < config_.accumulation) return;
    gradients_.experts().copy_(expert_sum_);
    gradient_slice_ = dense_sum_;
  }
  at::Tensor mine = gradients_.dense().narrow(0, layout_.slice_begin(), layout_.slice_elements());
  if (mine.data_ptr() != gradient_slice_.data_ptr()) mine.copy_(gradient_slice_);
  gradient_slice_ = mine;
}

}  // namespace diffmoe
