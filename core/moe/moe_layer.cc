#include "core/moe/moe_layer.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/kernels/permute_ops.h"
#include "core/moe/row_kernels.h"
#include "core/moe/selection.h"

namespace diffmoe {

struct MoeLayer::Saved {
  int64_t unit_tokens = 0;
  at::Tensor x;                 // [T/R, D]
  at::Tensor gate;              // [T/R, E] softmax
  at::Tensor predictor_hidden;  // [T/R, D] before SiLU
  at::Tensor predictor_active;  // [T/R, D]
  at::Tensor predictor;         // [T/R, E] logits
  at::Tensor score;             // [T/R, E] sigmoid of the logits
  Selection selection;
  Experts::Saved experts;
  at::Tensor returned;  // [sent rows, D] expert outputs, unweighted
};

void MoeLayer::SavedDeleter::operator()(Saved* saved) const { delete saved; }

MoeLayer::MoeLayer(const ModelConfig& model, int64_t block, const Parameters& parameters,
                   const MoeOptions& options, Collectives& collectives)
    : model_(model),
      block_(block),
      options_(options),
      experts_(parameters.layout(), parameters, block),
      exchange_(collectives, model.experts, absl::StrCat("block ", block)),
      threshold_(at::zeros({model.experts}, parameters.dense().options())) {
  const std::string prefix = absl::StrCat("blocks.", block, ".mlp.");
  const auto weight = [&](const std::string& name) {
    return parameters.at(prefix + name).detach();
  };
  gate_weight_ = weight("gate_weight");
  predictor_in_weight_ = weight("capacity_predictor.0.weight");
  predictor_in_bias_ = weight("capacity_predictor.0.bias");
  predictor_out_weight_ = weight("capacity_predictor.2.weight");
  predictor_out_bias_ = weight("capacity_predictor.2.bias");
  for (const ParameterPlace& place : parameters.layout().dense()) {
    if (absl::StartsWith(place.info->name, prefix)) router_places_.push_back(place);
  }
}

void MoeLayer::SetThreshold(const at::Tensor& threshold, bool initialized) {
  threshold_ = threshold.to(threshold_.options()).clone();
  threshold_initialized_ = initialized;
}

void MoeLayer::Route(const at::Tensor& x, int64_t unit_tokens, Saved& saved) const {
  const int64_t tokens = x.size(0);
  saved.unit_tokens = unit_tokens;
  saved.x = x;
  saved.gate = at::empty({tokens, model_.experts}, x.options());
  saved.predictor_hidden = at::empty_like(x);
  saved.predictor_active = at::empty_like(x);
  saved.predictor = at::empty_like(saved.gate);
  saved.score = at::empty_like(saved.gate);
  for (int64_t begin = 0; begin < tokens; begin += unit_tokens) {
    const auto unit = [&](const at::Tensor& t) { return t.narrow(0, begin, unit_tokens); };
    const at::Tensor rows = unit(x);
    unit(saved.gate).copy_(at::softmax(at::mm(rows, gate_weight_.t()), -1));
    at::Tensor hidden = unit(saved.predictor_hidden), active = unit(saved.predictor_active);
    at::Tensor logits = unit(saved.predictor), score = unit(saved.score);
    at::addmm_out(hidden, predictor_in_bias_, rows, predictor_in_weight_.t());
    at::silu_out(active, hidden);
    at::addmm_out(logits, predictor_out_bias_, active, predictor_out_weight_.t());
    at::sigmoid_out(score, logits);
  }
}

at::Tensor MoeLayer::Forward(const at::Tensor& x, int64_t unit_tokens, bool update_threshold,
                             SavedPtr* saved_out, MoeStepStats* stats) {
  SavedPtr saved(new Saved);
  Route(x, unit_tokens, *saved);
  const int64_t pool = x.size(0) * exchange_.world_size();
  saved->selection = exchange_.Select(saved->gate, saved->score,
                                      ExpertCapacities(pool, model_.experts, options_.capacity));
  last_selection_ = saved->selection.selected;
  if (stats != nullptr) CollectStats(*saved, stats);
  if (update_threshold) UpdateThreshold(saved->selection.quantiles);

  const at::Tensor rows = exchange_.Dispatch(x, saved->selection);
  const at::Tensor outputs = experts_.Forward(rows, saved->selection.expert_rows, &saved->experts);
  saved->returned = exchange_.Return(outputs, saved->selection, "return");
  at::Tensor y = CombineRows(saved->returned, saved->selection.rows, saved->gate);
  *saved_out = std::move(saved);
  return y;
}

void MoeLayer::UpdateThreshold(const at::Tensor& quantiles) {
  const at::Tensor q = quantiles.to(threshold_.options());
  if (!threshold_initialized_ && !options_.threshold_starts_at_zero) {
    threshold_ = q;
  } else {
    threshold_ = threshold_.mul(options_.threshold_decay).add(q.mul(1 - options_.threshold_decay));
  }
  threshold_initialized_ = true;
}

void MoeLayer::CollectStats(const Saved& saved, MoeStepStats* stats) const {
  const int64_t tokens = saved.x.size(0), experts = model_.experts;
  const at::Tensor mask = saved.selection.mask;
  const at::Tensor score = saved.score.to(at::kDouble), tau = threshold_.to(at::kDouble);
  const double* scores = score.const_data_ptr<double>();
  const double* taus = tau.const_data_ptr<double>();
  const uint8_t* taken = mask.const_data_ptr<uint8_t>();
  stats->tokens_above_threshold.assign(static_cast<size_t>(experts), 0);
  stats->tokens_without_expert = stats->agreeing_decisions = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    bool any = false;
    for (int64_t e = 0; e < experts; ++e) {
      const bool above = scores[t * experts + e] > taus[e];
      any = any || above;
      stats->tokens_above_threshold[static_cast<size_t>(e)] += above ? 1 : 0;
      stats->agreeing_decisions += above == (taken[t * experts + e] != 0) ? 1 : 0;
    }
    stats->tokens_without_expert += any ? 0 : 1;
  }
  // Mean BCE over the pool, one partial sum per unit.
  const double count =
      static_cast<double>(tokens * exchange_.world_size()) * static_cast<double>(experts);
  const at::Tensor target = mask.to(saved.predictor.scalar_type());
  stats->unit_predictor_loss.clear();
  for (int64_t begin = 0; begin < tokens; begin += saved.unit_tokens) {
    const at::Tensor loss = at::binary_cross_entropy_with_logits(
        saved.predictor.narrow(0, begin, saved.unit_tokens),
        target.narrow(0, begin, saved.unit_tokens), {}, {}, at::Reduction::Sum);
    stats->unit_predictor_loss.push_back(loss.item<double>() / count);
  }
}

at::Tensor MoeLayer::Backward(const at::Tensor& dy, const Saved& saved, const Parameters& gradients,
                              std::vector<std::vector<at::Tensor>>* unit_gradients) {
  const int64_t tokens = dy.size(0), width = dy.size(1), experts = model_.experts;
  at::Tensor drows = at::empty_like(saved.returned);
  at::Tensor dgate = at::empty_like(saved.gate);
  const int32_t* rows = saved.selection.rows.const_data_ptr<int32_t>();
  AT_DISPATCH_FLOATING_TYPES(dy.scalar_type(), "combine_backward", [&] {
    CombineRowsBackward<scalar_t>(
        dy.const_data_ptr<scalar_t>(), saved.returned.const_data_ptr<scalar_t>(), rows,
        saved.gate.const_data_ptr<scalar_t>(), tokens, experts, width,
        drows.mutable_data_ptr<scalar_t>(), dgate.mutable_data_ptr<scalar_t>());
  });
  const at::Tensor doutputs = exchange_.DispatchRows(drows, saved.selection, "gradient dispatch");
  const at::Tensor dinputs =
      experts_.Backward(doutputs, saved.selection.expert_rows, saved.experts, gradients);
  const at::Tensor returned = exchange_.Return(dinputs, saved.selection, "gradient return");
  at::Tensor dx = CombineRows(returned, saved.selection.rows, std::nullopt);
  return dx.add_(RouterBackward(saved, dgate, unit_gradients));
}

at::Tensor MoeLayer::RouterBackward(const Saved& saved, const at::Tensor& dgate,
                                    std::vector<std::vector<at::Tensor>>* unit_gradients) const {
  const int64_t tokens = saved.x.size(0);
  const double count =
      static_cast<double>(tokens * exchange_.world_size()) * static_cast<double>(model_.experts);
  // Softmax: dlogits = p * (dp - <dp, p>).
  const at::Tensor weighted = dgate.mul(saved.gate);
  const at::Tensor dlogits = weighted.sub(saved.gate.mul(weighted.sum(-1, /*keepdim=*/true)));
  const at::Tensor dpredictor = saved.score.sub(saved.selection.mask.to(saved.score.scalar_type()))
                                    .mul_(options_.predictor_loss_weight / count);
  at::Tensor dx = at::empty_like(saved.x);
  unit_gradients->clear();
  for (int64_t begin = 0; begin < tokens; begin += saved.unit_tokens) {
    const auto unit = [&](const at::Tensor& t) { return t.narrow(0, begin, saved.unit_tokens); };
    at::Tensor dx_unit = unit(dx);
    at::mm_out(dx_unit, unit(dlogits), gate_weight_);
    // The predictor works on detached tokens: its gradient ends in its own weights.
    const at::Tensor dz = unit(dpredictor);
    const at::Tensor dhidden =
        at::silu_backward(at::mm(dz, predictor_out_weight_), unit(saved.predictor_hidden));
    unit_gradients->push_back({at::mm(unit(dlogits).t(), unit(saved.x)),
                               at::mm(dhidden.t(), unit(saved.x)), dhidden.sum(0),
                               at::mm(dz.t(), unit(saved.predictor_active)), dz.sum(0)});
  }
  return dx;
}

at::Tensor MoeLayer::Infer(const at::Tensor& x, int64_t unit_tokens, int64_t* used) const {
  Saved saved;
  Route(x, unit_tokens, saved);
  const int64_t tokens = x.size(0), experts = model_.experts;
  at::Tensor rows = at::full({tokens, experts}, -1, at::TensorOptions().dtype(at::kInt));
  std::vector<int64_t> ids, counts(static_cast<size_t>(experts), 0);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "threshold_routing", [&] {
    const scalar_t* scores = saved.score.const_data_ptr<scalar_t>();
    const scalar_t* taus = threshold_.const_data_ptr<scalar_t>();
    int32_t* row = rows.mutable_data_ptr<int32_t>();
    for (int64_t e = 0; e < experts; ++e) {
      for (int64_t t = 0; t < tokens; ++t) {
        if (!(scores[t * experts + e] > taus[e])) continue;
        row[t * experts + e] = static_cast<int32_t>(ids.size());
        ids.push_back(t);
        ++counts[static_cast<size_t>(e)];
      }
    }
  });
  *used += static_cast<int64_t>(ids.size());
  at::Tensor order =
      at::empty({static_cast<int64_t>(ids.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(ids.begin(), ids.end(), order.mutable_data_ptr<int64_t>());
  return CombineRows(experts_.Forward(GatherRows(x, order), counts, nullptr), rows, saved.gate);
}

}  // namespace diffmoe
