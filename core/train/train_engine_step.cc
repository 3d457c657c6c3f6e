// The part of a step after the gradients: sum over ranks, clip norm, AdamW, gather.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/train/adamw.h"
#include "core/train/expert_replicas.h"
#include "core/train/parameter_runs.h"
#include "core/train/schedule.h"
#include "core/train/train_engine.h"

namespace diffmoe {
namespace {

// Squares of larger gradients leave the range of fp32 in the optimiser's state.
constexpr double kLargestGradientNorm = 1e18;
constexpr char kNonFiniteHint[] = "; lower the learning rate or check the data";

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

// The largest number of experts of one layer that any rank owns.
int64_t MostOwned(const ExpertPlacement& placement) {
  int64_t most = 0;
  for (int64_t r = 0; r < placement.world_size(); ++r) {
    most = std::max(most, placement.owned(r).count);
  }
  return most;
}

}  // namespace

// What all ranks tell each other once per step, summed over ranks. Every sum runs over global
// units, chunks or experts in ascending order, whatever the number of ranks.
struct TrainEngine::Scalars {
  double elapsed_seconds = 0;
  uint32_t flags = 0;
  double loss = 0, router_loss = 0, norm_squared = 0;
  struct Layer {
    std::vector<double> tokens_per_expert;
    double without_expert = 0, agreeing = 0, entropy = 0;
  };
  std::vector<Layer> layers;
};

// Layout of one rank's row: elapsed time; flags; per microbatch the units' losses and per layer
// {router loss and entropy of each unit, tokens per expert, tokens without expert, agreeing
// decisions}; then squared gradient norms per chunk of the dense slice and per (layer, owned
// expert), the latter padded to the largest number of owned experts.
std::vector<double> TrainEngine::LocalScalars(double elapsed_seconds) const {
  std::vector<double> row{elapsed_seconds,
                          options_.flags ? static_cast<double>(options_.flags()) : 0.0};
  const auto append = [&](const std::vector<double>& values) {
    row.insert(row.end(), values.begin(), values.end());
  };
  for (size_t m = 0; m < moe_stats_.size(); ++m) {
    const auto first = unit_losses_.begin() + static_cast<int64_t>(m) * unit_count_;
    row.insert(row.end(), first, first + unit_count_);
    for (const MoeStepStats& stats : moe_stats_[m]) {
      append(stats.unit_router_loss);
      append(stats.unit_gate_entropy);
      append(stats.tokens_per_expert);
      append({stats.tokens_without_expert, stats.agreeing_decisions});
    }
  }
  const int64_t chunks = layout_.slice_elements() / ParameterLayout::kChunk;
  std::vector<double> norms(static_cast<size_t>(chunks), 0.0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = layout_.slice_begin() + chunk * ParameterLayout::kChunk;
    ForEachRun(layout_, begin, begin + ParameterLayout::kChunk,
               [&](const ParameterPlace& place, int64_t from, int64_t n) {
                 if (place.info->kind == ParameterKind::kPredictor) return;
                 norms[static_cast<size_t>(chunk)] +=
                     SumSquares(gradient_slice_.narrow(0, from - layout_.slice_begin(), n));
               });
  }
  append(norms);
  std::map<int64_t, int64_t> layer_of_block;
  for (size_t l = 0; l < moe_layers_.size(); ++l) {
    layer_of_block[moe_layers_[l]->block()] = static_cast<int64_t>(l);
  }
  const ExpertRange owned = layout_.placement().owned();
  const int64_t most = MostOwned(layout_.placement());
  std::vector<double> expert_norms(moe_layers_.size() * static_cast<size_t>(most), 0.0);
  for (const OwnedRun& run : layout_.owned_experts()) {
    const ParameterInfo& info = *run.place.info;
    expert_norms[static_cast<size_t>(layer_of_block.at(info.block) * most + info.expert -
                                     owned.first)] +=
        SumSquares(gradients_.experts().narrow(0, run.place.offset, info.elements()));
  }
  append(expert_norms);
  return row;
}

TrainEngine::Scalars TrainEngine::GatherScalars(double elapsed_seconds) {
  const int64_t ranks = collectives_.world_size(), experts = config_.model.experts;
  const std::vector<double> row = LocalScalars(elapsed_seconds);
  const int64_t length = static_cast<int64_t>(row.size());
  at::Tensor mine = at::empty({length}, at::TensorOptions().dtype(at::kDouble));
  std::copy(row.begin(), row.end(), mine.data_ptr<double>());
  at::Tensor all = at::empty({ranks, length}, mine.options());
  collectives_.AllGather(all, mine, "scalars of the step");
  const double* values = all.const_data_ptr<double>();

  Scalars out;
  out.elapsed_seconds = values[0];
  for (int64_t r = 0; r < ranks; ++r) out.flags |= static_cast<uint32_t>(values[r * length + 1]);
  out.layers.resize(moe_layers_.size());
  int64_t at = 2;
  // Calls add(value) for the next `count` values of every rank, rank after rank.
  const auto take = [&](int64_t count, const auto& add) {
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t i = 0; i < count; ++i) add(i, values[r * length + at + i]);
    }
    at += count;
  };
  const auto into = [](double& sum) { return [&sum](int64_t, double value) { sum += value; }; };
  for (size_t m = 0; m < moe_stats_.size(); ++m) {
    take(unit_count_, into(out.loss));
    for (Scalars::Layer& layer : out.layers) {
      double router_loss = 0;
      take(unit_count_, into(router_loss));
      out.router_loss += router_loss;
      take(unit_count_, into(layer.entropy));
      layer.tokens_per_expert.resize(static_cast<size_t>(experts), 0.0);
      take(experts, [&](int64_t e, double value) {
        layer.tokens_per_expert[static_cast<size_t>(e)] += value;
      });
      take(1, into(layer.without_expert));
      take(1, into(layer.agreeing));
    }
  }
  take(layout_.slice_elements() / ParameterLayout::kChunk, into(out.norm_squared));
  for (size_t l = 0; l < moe_layers_.size(); ++l) {
    take(MostOwned(layout_.placement()), into(out.norm_squared));
  }
  return out;
}

std::string TrainEngine::BadGradient() const {
  std::string name;
  const int64_t begin = layout_.slice_begin();
  ForEachRun(layout_, begin, begin + layout_.slice_elements(),
             [&](const ParameterPlace& place, int64_t from, int64_t count) {
               const at::Tensor part = gradient_slice_.narrow(0, from - begin, count);
               if (!std::isfinite(SumSquares(part))) name = place.info->name;
             });
  if (!name.empty()) return name;
  for (const OwnedRun& run : layout_.owned_experts()) {
    const at::Tensor part =
        gradients_.experts().narrow(0, run.place.offset, run.place.info->elements());
    if (!std::isfinite(SumSquares(part))) name = run.place.info->name;
  }
  return name;
}

void TrainEngine::CheckFinite(const StepFigures& figures, int64_t step) const {
  if (!std::isfinite(figures.loss)) {
    throw NonFiniteScoreError(absl::StrCat("loss is not a number at step ", step + 1, ": ",
                                           figures.loss, kNonFiniteHint));
  }
  if (figures.grad_norm < kLargestGradientNorm) return;
  const std::string name = BadGradient();
  throw NonFiniteScoreError(absl::StrCat(
      "gradient norm is not a number at step ", step + 1, ": ", figures.grad_norm,
      name.empty() ? "" : absl::StrCat(", in the gradient of ", name), kNonFiniteHint));
}

StepFigures TrainEngine::Step(int64_t step, const Batch& batch, double elapsed_seconds) {
  try {
    ForwardBackward(batch);
  } catch (const NonFiniteScoreError& error) {
    throw NonFiniteScoreError(absl::StrCat("loss is not a number at step ", step + 1, ": ",
                                           error.what(), kNonFiniteHint));
  }
  const double scalars_begin = Now();
  const Scalars scalars = GatherScalars(elapsed_seconds);
  phases_.reduce += Now() - scalars_begin;

  const double layers = static_cast<double>(std::max<size_t>(moe_layers_.size(), 1));
  const double microbatches = static_cast<double>(config_.accumulation);
  StepFigures figures;
  figures.loss = scalars.loss;
  if (config_.model.family == Family::kTokenChoice) {
    figures.balance_loss = scalars.router_loss / microbatches;
  } else {
    figures.predictor_loss = scalars.router_loss / microbatches /
                             (config_.compatibility.sum_predictor_loss_over_layers ? 1.0 : layers);
  }
  figures.grad_norm = std::sqrt(scalars.norm_squared);
  figures.elapsed_seconds = scalars.elapsed_seconds;
  figures.flags = scalars.flags;
  CheckFinite(figures, step);
  figures.learning_rate = LearningRateAt(config_.optimizer, step,
                                         TrainingProgress(config_, step, scalars.elapsed_seconds));
  const double clip = config_.optimizer.clip_norm;
  const double scale = clip > 0 && figures.grad_norm > clip ? clip / figures.grad_norm : 1.0;

  const ActivityScope scope(options_.activity, "the optimizer's update");
  const double update_begin = Now(), waited = collectives_.counters().seconds;
  Update(figures, step, scale);
  const double gather = collectives_.counters().seconds - waited;
  phases_.optimizer = Now() - update_begin - gather;
  phases_.reduce += gather;
  for (size_t l = 0; l < moe_layers_.size(); ++l) figures.layers.push_back(FiguresOf(l, scalars));
  return figures;
}

LayerFigures TrainEngine::FiguresOf(size_t layer, const Scalars& scalars) const {
  const double tokens =
      static_cast<double>(config_.global_batch * config_.model.tokens_per_sample());
  const double experts = static_cast<double>(config_.model.experts);
  // What every expert takes on average when load is even.
  const double per_token = config_.model.family == Family::kTokenChoice
                               ? static_cast<double>(config_.model.top_k)
                               : config_.model.capacity;
  const Scalars::Layer& sums = scalars.layers[layer];
  LayerFigures figures;
  figures.block = moe_layers_[layer]->block();
  double used = 0;
  for (double count : sums.tokens_per_expert) {
    used += count;
    figures.expert_load.push_back(static_cast<float>(count * experts / (tokens * per_token)));
  }
  figures.capacity = used / tokens;
  figures.predictor_accuracy = sums.agreeing / (tokens * experts);
  figures.zero_expert_tokens = sums.without_expert / tokens;
  figures.gate_entropy = sums.entropy / tokens;
  figures.thresholds = Thresholds()[layer];
  for (const std::vector<MoeStepStats>& microbatch : moe_stats_) {
    const MoeStepStats& stats = microbatch[layer];
    figures.bytes_sent += stats.bytes_sent;
    figures.collectives += stats.collectives;
    figures.rows_to_rank.resize(stats.rows_to_rank.size(), 0);
    for (size_t r = 0; r < stats.rows_to_rank.size(); ++r) {
      figures.rows_to_rank[r] += stats.rows_to_rank[r];
    }
  }
  return figures;
}

void TrainEngine::Update(const StepFigures& figures, int64_t step, double clip_scale) {
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
    const auto update = [&](const at::Tensor& grad, int64_t grad_offset, const at::Tensor& weight,
                            int64_t weight_offset, const at::Tensor& m, const at::Tensor& v,
                            const at::Tensor& ema, int64_t offset, int64_t count, double scale) {
      adamw.grad_scale = scale;
      AdamwEma<scalar_t>(adamw, count, grad.const_data_ptr<scalar_t>() + grad_offset,
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
                 update(gradient_slice_, from - begin, parameters_.dense(), from, m_dense_,
                        v_dense_, ema_dense_, from - begin, count, scale);
               });
    for (const OwnedRun& run : layout_.owned_experts()) {
      update(gradients_.experts(), run.place.offset, parameters_.experts(), run.place.offset,
             m_experts_, v_experts_, ema_experts_, run.state_offset, run.place.info->elements(),
             clip_scale);
    }
  });
  if (collectives_.world_size() > 1) {
    const at::Tensor mine = parameters_.dense().narrow(0, begin, size).clone();
    at::Tensor all = parameters_.dense().view({collectives_.world_size(), size});
    collectives_.AllGather(all, mine, "weight gather");
    GatherExpertWeights(collectives_, parameters_);
  }
  RefreshComputeWeights();
}

}  // namespace diffmoe
