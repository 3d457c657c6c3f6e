// The part of a step after the gradients: sum over ranks, clip norm, AdamW, gather.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "core/parallel/gradient_tree.h"
#include "core/train/adamw.h"
#include "core/train/schedule.h"
#include "core/train/train_engine.h"

namespace diffmoe {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Sum of squares in double, eight lanes in a fixed order.
template <typename Real>
double SumSquares(const Real* data, int64_t count) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int64_t lane = 0; lane < 8; ++lane) {
      lanes[lane] += static_cast<double>(data[i + lane]) * static_cast<double>(data[i + lane]);
    }
  }
  for (int64_t lane = 0; i < count; ++i, ++lane)
    lanes[lane] += static_cast<double>(data[i]) * static_cast<double>(data[i]);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

double SumSquares(const at::Tensor& flat) {
  double sum = 0;
  AT_DISPATCH_FLOATING_TYPES(flat.scalar_type(), "sum_squares", [&] {
    sum = SumSquares(flat.const_data_ptr<scalar_t>(), flat.numel());
  });
  return sum;
}

// Calls visit(place, begin, count) for the part of every parameter that lies in [begin, end) of the
// dense buffer.
template <typename Visit>
void ForEachRun(const ParameterLayout& layout, int64_t begin, int64_t end, const Visit& visit) {
  for (const ParameterPlace& place : layout.dense()) {
    const int64_t from = std::max(place.offset, begin);
    const int64_t to = std::min(place.offset + place.info->elements(), end);
    if (from < to) visit(place, from, to - from);
  }
}

}  // namespace

// What all ranks tell each other once per step, as one row of doubles per rank.
struct TrainEngine::Scalars {
  double elapsed_seconds = 0;
  double loss = 0, predictor_loss = 0, norm_squared = 0;
  std::vector<std::vector<double>> above;  // [layers][E]
  std::vector<double> without_expert, agreeing;
};

TrainEngine::Scalars TrainEngine::GatherScalars(const at::Tensor& grad_slice,
                                                double elapsed_seconds) {
  const int64_t ranks = collectives_.world_size(), experts = config_.model.experts,
                owned = layout_.expert_count();
  const int64_t layers = moe_layer_count(),
                chunks = layout_.slice_elements() / ParameterLayout::kChunk;
  std::vector<double> row{elapsed_seconds};
  row.insert(row.end(), unit_losses_.begin(), unit_losses_.end());
  for (const MoeStepStats& stats : moe_stats_) {
    row.insert(row.end(), stats.unit_predictor_loss.begin(), stats.unit_predictor_loss.end());
    row.insert(row.end(), stats.tokens_above_threshold.begin(), stats.tokens_above_threshold.end());
    row.push_back(stats.tokens_without_expert);
    row.push_back(stats.agreeing_decisions);
  }
  // Squared norms: per chunk of the dense buffer, then per owned expert.
  std::vector<double> norms(static_cast<size_t>(chunks), 0.0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = layout_.slice_begin() + chunk * ParameterLayout::kChunk;
    ForEachRun(layout_, begin, begin + ParameterLayout::kChunk,
               [&](const ParameterPlace& place, int64_t from, int64_t n) {
                 if (place.info->kind == ParameterKind::kPredictor) return;
                 norms[static_cast<size_t>(chunk)] +=
                     SumSquares(grad_slice.narrow(0, from - layout_.slice_begin(), n));
               });
  }
  std::vector<double> expert_norms(static_cast<size_t>(layers * owned), 0.0);
  size_t parameter = 0;
  for (const ParameterPlace& place : layout_.experts()) {
    const size_t per_expert = layout_.experts().size() / std::max<size_t>(expert_norms.size(), 1);
    expert_norms[parameter++ / per_expert] +=
        SumSquares(gradients_.experts().narrow(0, place.offset, place.info->elements()));
  }
  row.insert(row.end(), norms.begin(), norms.end());
  row.insert(row.end(), expert_norms.begin(), expert_norms.end());

  at::Tensor mine =
      at::empty({static_cast<int64_t>(row.size())}, at::TensorOptions().dtype(at::kDouble));
  std::copy(row.begin(), row.end(), mine.data_ptr<double>());
  at::Tensor all = at::empty({ranks, mine.size(0)}, mine.options());
  collectives_.AllGather(all, mine, "scalars of the step");

  // Every sum runs over global units, chunks or experts in ascending order, whatever the number of
  // ranks.
  Scalars out;
  out.above.assign(static_cast<size_t>(layers),
                   std::vector<double>(static_cast<size_t>(experts), 0.0));
  out.without_expert.assign(static_cast<size_t>(layers), 0.0);
  out.agreeing = out.without_expert;
  const double* values = all.const_data_ptr<double>();
  const auto at = [&](int64_t r, int64_t i) {
    return values[r * static_cast<int64_t>(row.size()) + i];
  };
  out.elapsed_seconds = at(0, 0);
  for (int64_t r = 0; r < ranks; ++r) {
    for (int64_t u = 0; u < unit_count_; ++u) out.loss += at(r, 1 + u);
  }
  const double layer_weight = options_.sum_predictor_loss_over_layers
                                  ? 1.0
                                  : 1.0 / static_cast<double>(std::max<int64_t>(layers, 1));
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int64_t base = 1 + unit_count_ + layer * (unit_count_ + experts + 2);
    const size_t l = static_cast<size_t>(layer);
    double bce = 0;
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t u = 0; u < unit_count_; ++u) bce += at(r, base + u);
      for (int64_t e = 0; e < experts; ++e)
        out.above[l][static_cast<size_t>(e)] += at(r, base + unit_count_ + e);
      out.without_expert[l] += at(r, base + unit_count_ + experts);
      out.agreeing[l] += at(r, base + unit_count_ + experts + 1);
    }
    out.predictor_loss += bce * layer_weight;
  }
  const int64_t norm_base = 1 + unit_count_ + layers * (unit_count_ + experts + 2);
  for (int64_t r = 0; r < ranks; ++r) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) out.norm_squared += at(r, norm_base + chunk);
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t e = 0; e < owned; ++e)
        out.norm_squared += at(r, norm_base + chunks + layer * owned + e);
    }
  }
  return out;
}

StepFigures TrainEngine::Step(int64_t step, const Batch& batch, double elapsed_seconds) {
  ForwardBackward(batch);
  const double reduce_begin = Now();
  const at::Tensor grad_slice = ReduceScatterTree(collectives_, gradients_.dense(), "gradient sum");
  const Scalars scalars = GatherScalars(grad_slice, elapsed_seconds);
  phases_.reduce = Now() - reduce_begin;

  StepFigures figures;
  figures.loss = scalars.loss;
  figures.predictor_loss = scalars.predictor_loss;
  figures.grad_norm = std::sqrt(scalars.norm_squared);
  figures.elapsed_seconds = scalars.elapsed_seconds;
  if (!std::isfinite(figures.loss) || !std::isfinite(figures.grad_norm)) {
    throw NonFiniteScoreError(absl::StrCat(
        "step ", step, ": loss ", figures.loss, " and gradient norm ", figures.grad_norm,
        " must be finite; lower the learning rate or check the data"));
  }
  figures.learning_rate = LearningRateAt(config_.optimizer, step,
                                         TrainingProgress(config_, step, scalars.elapsed_seconds));
  const double clip = config_.optimizer.clip_norm;
  const double scale = clip > 0 && figures.grad_norm > clip ? clip / figures.grad_norm : 1.0;

  const double update_begin = Now(), waited = collectives_.counters().seconds;
  Update(figures, step, grad_slice, scale);
  const double gather = collectives_.counters().seconds - waited;
  phases_.optimizer = Now() - update_begin - gather;
  phases_.reduce += gather;

  const double tokens =
      static_cast<double>(config_.global_batch * config_.model.tokens_per_sample());
  const double experts = static_cast<double>(config_.model.experts);
  for (size_t l = 0; l < moe_layers_.size(); ++l) {
    LayerFigures layer;
    layer.block = moe_layers_[l]->block();
    double above = 0;
    for (double count : scalars.above[l]) {
      above += count;
      layer.expert_load.push_back(
          static_cast<float>(count * experts / (tokens * config_.model.capacity)));
    }
    layer.capacity = above / tokens;
    layer.predictor_accuracy = scalars.agreeing[l] / (tokens * experts);
    layer.zero_expert_tokens = scalars.without_expert[l] / tokens;
    layer.thresholds = Thresholds()[l];
    figures.layers.push_back(std::move(layer));
  }
  return figures;
}

void TrainEngine::Update(const StepFigures& figures, int64_t step, const at::Tensor& grad_slice,
                         double clip_scale) {
  AdamwStep adamw;
  adamw.learning_rate = figures.learning_rate;
  adamw.beta1 = config_.optimizer.beta1;
  adamw.beta2 = config_.optimizer.beta2;
  adamw.epsilon = config_.optimizer.epsilon;
  adamw.weight_decay = config_.optimizer.weight_decay;
  adamw.ema_decay = EmaDecayAt(config_.optimizer, step);
  adamw.step = step + 1;
  const int64_t begin = layout_.slice_begin(), size = layout_.slice_elements();
  AT_DISPATCH_FLOATING_TYPES(options_.dtype, "adamw", [&] {
    const auto update = [&](const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& m,
                            const at::Tensor& v, const at::Tensor& ema, int64_t weight_offset,
                            int64_t offset, int64_t count, double scale) {
      adamw.grad_scale = scale;
      AdamwEma<scalar_t>(adamw, count, grad.const_data_ptr<scalar_t>() + offset,
                         static_cast<scalar_t*>(weight.data_ptr()) + weight_offset,
                         static_cast<scalar_t*>(m.data_ptr()) + offset,
                         static_cast<scalar_t*>(v.data_ptr()) + offset,
                         static_cast<scalar_t*>(ema.data_ptr()) + offset);
    };
    ForEachRun(layout_, begin, begin + size,
               [&](const ParameterPlace& place, int64_t from, int64_t count) {
                 // The predictor has a loss of its own: the clip leaves it alone.
                 const double scale =
                     place.info->kind == ParameterKind::kPredictor ? 1.0 : clip_scale;
                 update(grad_slice, parameters_.dense(), m_dense_, v_dense_, ema_dense_, from,
                        from - begin, count, scale);
               });
    if (layout_.expert_elements() > 0) {
      update(gradients_.experts(), parameters_.experts(), m_experts_, v_experts_, ema_experts_, 0,
             0, layout_.expert_elements(), clip_scale);
    }
  });
  if (collectives_.world_size() > 1) {
    const at::Tensor mine = parameters_.dense().narrow(0, begin, size).clone();
    at::Tensor all = parameters_.dense().view({collectives_.world_size(), size});
    collectives_.AllGather(all, mine, "weight gather");
  }
}

std::vector<StateRun> TrainEngine::DenseRuns(const std::string& prefix, at::Tensor flat,
                                             int64_t flat_begin, int64_t begin, int64_t end) {
  std::vector<StateRun> runs;
  float* data = flat.data_ptr<float>();
  ForEachRun(layout_, begin, end, [&](const ParameterPlace& place, int64_t from, int64_t count) {
    runs.push_back({prefix + place.info->name, place.info->shape, from - place.offset, count,
                    data + (from - flat_begin)});
  });
  return runs;
}

std::vector<StateRun> TrainEngine::ExpertRuns(const std::string& prefix, const at::Tensor& flat) {
  std::vector<StateRun> runs;
  float* data = flat.data_ptr<float>();
  for (const ParameterPlace& place : layout_.experts()) {
    runs.push_back({prefix + place.info->name, place.info->shape, 0, place.info->elements(),
                    data + place.offset});
  }
  return runs;
}

std::vector<StateRun> TrainEngine::OwnedState() {
  const int64_t begin = layout_.slice_begin(), end = begin + layout_.slice_elements();
  std::vector<StateRun> runs = DenseRuns("model/", parameters_.dense(), 0, begin, end);
  const auto append = [&](std::vector<StateRun> more) {
    runs.insert(runs.end(), more.begin(), more.end());
  };
  append(DenseRuns("ema/", ema_dense_, begin, begin, end));
  append(DenseRuns("adam_m/", m_dense_, begin, begin, end));
  append(DenseRuns("adam_v/", v_dense_, begin, begin, end));
  append(ExpertRuns("model/", parameters_.experts()));
  append(ExpertRuns("ema/", ema_experts_));
  append(ExpertRuns("adam_m/", m_experts_));
  append(ExpertRuns("adam_v/", v_experts_));
  return runs;
}

std::vector<StateRun> TrainEngine::NeededState() {
  std::vector<StateRun> runs =
      DenseRuns("model/", parameters_.dense(), 0, 0, layout_.dense_elements());
  for (StateRun& run : OwnedState()) {
    const bool dense_weight =
        run.data >= parameters_.dense().data_ptr<float>() &&
        run.data < parameters_.dense().data_ptr<float>() + layout_.dense_elements();
    if (!dense_weight) runs.push_back(std::move(run));
  }
  return runs;
}

void TrainEngine::RestoreThresholds(const std::vector<std::vector<float>>& thresholds,
                                    bool initialized) {
  if (thresholds.size() != moe_layers_.size()) {
    throw std::invalid_argument(absl::StrCat("checkpoint has thresholds of ", thresholds.size(),
                                             " MoE layers, the model has ", moe_layers_.size()));
  }
  for (size_t l = 0; l < thresholds.size(); ++l) {
    at::Tensor values = at::empty({static_cast<int64_t>(thresholds[l].size())},
                                  at::TensorOptions().dtype(at::kFloat));
    std::copy(thresholds[l].begin(), thresholds[l].end(), values.data_ptr<float>());
    moe_layers_[l]->SetThreshold(values, initialized);
  }
}

std::vector<std::vector<float>> TrainEngine::Thresholds() const {
  std::vector<std::vector<float>> all;
  for (const auto& layer : moe_layers_) {
    const at::Tensor values = layer->threshold().to(at::kFloat).contiguous();
    all.emplace_back(values.const_data_ptr<float>(),
                     values.const_data_ptr<float>() + values.numel());
  }
  return all;
}

bool TrainEngine::thresholds_initialized() const {
  return moe_layers_.empty() || moe_layers_.front()->threshold_initialized();
}

}  // namespace diffmoe
