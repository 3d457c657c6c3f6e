#include "core/moe/moe_layer.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"
#include "core/kernels/permute_ops.h"
#include "core/moe/choice.h"
#include "core/moe/row_kernels.h"
#include "core/moe/saved.h"
#include "core/moe/selection.h"

namespace diffmoe {
namespace {

std::string Prefix(int64_t block) { return absl::StrCat("blocks.", block, ".mlp."); }

ParameterPlace PlaceOf(const ParameterLayout& layout, const std::string& name) {
  for (const ParameterPlace& place : layout.dense()) {
    if (place.info->name == name) return place;
  }
  throw std::logic_error("no dense parameter " + name);
}

// The shared expert's own activation, as published.
Activation SharedActivation(Family family) {
  return family == Family::kDiffMoe ? Activation::kGelu : Activation::kSwiglu;
}

}  // namespace

void MoeLayer::SavedDeleter::operator()(Saved* saved) const { delete saved; }

MoeLayer::MoeLayer(const ModelConfig& model, int64_t block, const Parameters& parameters,
                   const Parameters& compute, const MoeOptions& options, Collectives& collectives)
    : model_(model),
      block_(block),
      options_(options),
      router_(parameters, Prefix(block), model.family == Family::kDiffMoe),
      experts_(model, compute, block),
      exchange_(collectives, parameters.layout().placement(), absl::StrCat("block ", block)),
      threshold_(at::zeros({has_predictor() ? model.experts : 0}, parameters.dense().options())) {
  std::vector<std::string> names = router_.weight_names();
  if (model.shared_experts > 0) {
    shared_.emplace(compute, Prefix(block) + "shared_experts.", SharedActivation(model.family));
    names.insert(names.end(), shared_->weight_names().begin(), shared_->weight_names().end());
  }
  for (const std::string& name : names) {
    unit_places_.push_back(PlaceOf(parameters.layout(), name));
  }
}

void MoeLayer::SetThreshold(const at::Tensor& threshold, bool initialized) {
  if (threshold.sizes() != threshold_.sizes()) {
    throw std::invalid_argument(absl::StrCat("block ", block_, ": expected ", threshold_.numel(),
                                             " thresholds, got ", threshold.numel()));
  }
  threshold_ = threshold.to(threshold_.options()).clone();
  threshold_initialized_ = initialized;
}

void MoeLayer::UpdateThreshold(const at::Tensor& quantiles) {
  const at::Tensor q = quantiles.to(threshold_.options());
  if (!threshold_initialized_ && options_.threshold_init == ThresholdInit::kQuantile) {
    threshold_ = q;
  } else {
    threshold_ = threshold_.mul(options_.threshold_decay).add(q.mul(1 - options_.threshold_decay));
  }
  threshold_initialized_ = true;
}

const at::Tensor& MoeLayer::Quantiles(const Saved& saved) { return saved.selection.quantiles; }
const at::Tensor& MoeLayer::Mask(const Saved& saved) { return saved.selection.mask; }

std::vector<int64_t> MoeLayer::Capacities(int64_t pool_tokens) const {
  return ExpertCapacities(pool_tokens, model_.experts, model_.capacity,
                          options_.round_capacity_down);
}

Selection MoeLayer::Select(const RouterOutput& router) const {
  const int64_t tokens = router.gate.size(0);
  if (model_.family == Family::kTokenChoice) {
    exchange_.CheckFinite(router.gate, "gate score");
    return exchange_.SelectLocal(ChooseByTokens(router.gate, model_.top_k), {});
  }
  if (model_.pool == PoolScope::kGlobal) {
    return exchange_.SelectGlobal(router.gate, router.score,
                                  Capacities(tokens * exchange_.world_size()));
  }
  exchange_.CheckFinite(router.gate, "gate score");
  if (router.score.defined()) exchange_.CheckFinite(router.score, "capacity predictor");
  const int64_t pool = model_.pool == PoolScope::kRank ? tokens : model_.tokens_per_sample();
  const PoolChoice choice = ChooseByExperts(router.gate, router.score, pool, Capacities(pool));
  return exchange_.SelectLocal(choice.mask, choice.quantiles);
}

at::Tensor MoeLayer::Forward(const at::Tensor& x, int64_t unit_tokens, bool keep_activations,
                             SavedPtr* saved_out, MoeStepStats* stats) {
  SavedPtr saved(new Saved);
  const CollectiveCounters before = exchange_.counters();
  saved->unit_tokens = unit_tokens;
  saved->x = x;
  saved->router = router_.Forward(x.to(threshold_.scalar_type()), unit_tokens);
  saved->selection = Select(saved->router);
  const at::Tensor y = Compute(*saved);
  if (stats != nullptr) {
    CollectStats(*saved, stats);
    CollectRouterLoss(*saved, stats);
    stats->bytes_sent = exchange_.counters().bytes_sent - before.bytes_sent;
    stats->collectives = exchange_.counters().calls - before.calls;
  }
  if (!keep_activations) saved->DropActivations();
  *saved_out = std::move(saved);
  return y;
}

at::Tensor MoeLayer::Compute(Saved& saved) const {
  const at::Tensor rows = exchange_.Dispatch(saved.x, saved.selection);
  const at::Tensor outputs = experts_.Forward(rows, saved.selection.expert_rows, &saved.experts);
  saved.returned =
      exchange_.Return(outputs, saved.selection, "return").to(saved.router.gate.scalar_type());
  at::Tensor y = CombineRows(saved.returned, saved.selection.rows, saved.router.gate)
                     .to(saved.x.scalar_type());
  if (shared_.has_value()) {
    saved.shared = shared_->Allocate(saved.x);
    at::Tensor unit_y = at::empty({saved.unit_tokens, saved.x.size(1)}, saved.x.options());
    for (int64_t begin = 0; begin < y.size(0); begin += saved.unit_tokens) {
      shared_->Forward(saved.x.narrow(0, begin, saved.unit_tokens),
                       saved.shared.Rows(begin, saved.unit_tokens), unit_y);
      y.narrow(0, begin, saved.unit_tokens).add_(unit_y);
    }
  }
  return y;
}

at::Tensor MoeLayer::Backward(const at::Tensor& dy, Saved& saved, const Parameters& gradients,
                              std::vector<std::vector<at::Tensor>>* unit_gradients) {
  const at::ScalarType router_dtype = saved.router.gate.scalar_type();
  const at::Tensor router_x = saved.x.to(router_dtype);
  if (!saved.returned.defined()) {
    // The scores are the same bits again; the selection is the one that was made.
    saved.router = router_.Forward(router_x, saved.unit_tokens);
    Compute(saved);
  }
  const int64_t tokens = dy.size(0), width = dy.size(1);
  const at::Tensor wide_dy = dy.to(router_dtype);
  at::Tensor drows = at::empty_like(saved.returned);
  at::Tensor dgate = at::empty_like(saved.router.gate);
  AT_DISPATCH_FLOATING_TYPES(router_dtype, "combine_backward", [&] {
    CombineRowsBackward<scalar_t>(
        wide_dy.const_data_ptr<scalar_t>(), saved.returned.const_data_ptr<scalar_t>(),
        saved.selection.rows.const_data_ptr<int32_t>(),
        saved.router.gate.const_data_ptr<scalar_t>(), tokens, model_.experts, width,
        drows.mutable_data_ptr<scalar_t>(), dgate.mutable_data_ptr<scalar_t>());
  });
  const at::Tensor doutputs =
      exchange_.DispatchRows(drows.to(dy.scalar_type()), saved.selection, "gradient dispatch");
  const at::Tensor dinputs =
      experts_.Backward(doutputs, saved.selection.expert_rows, saved.experts, gradients);
  const at::Tensor returned =
      exchange_.Return(dinputs, saved.selection, "gradient return").to(router_dtype);
  at::Tensor dx = CombineRows(returned, saved.selection.rows, std::nullopt);

  at::Tensor dlogits;
  AddRouterLoss(saved, dgate, &dlogits);
  unit_gradients->clear();
  dx.add_(
      router_.Backward(router_x, saved.router, dgate, dlogits, saved.unit_tokens, unit_gradients));
  dx = dx.to(dy.scalar_type());
  if (!shared_.has_value()) return dx;
  at::Tensor unit_dx = at::empty({saved.unit_tokens, width}, dy.options());
  for (size_t u = 0; u < unit_gradients->size(); ++u) {
    const int64_t begin = static_cast<int64_t>(u) * saved.unit_tokens;
    const auto unit = [&](const at::Tensor& t) { return t.narrow(0, begin, saved.unit_tokens); };
    std::vector<at::Tensor> weight_gradients;
    for (const at::Tensor& weight : shared_->weights()) {
      weight_gradients.push_back(at::empty(weight.sizes(), weight.options().dtype(router_dtype)));
    }
    shared_->Backward(unit(dy), unit(saved.x), saved.shared.Rows(begin, saved.unit_tokens), unit_dx,
                      weight_gradients);
    unit(dx).add_(unit_dx);
    std::vector<at::Tensor>& all = (*unit_gradients)[u];
    all.insert(all.end(), weight_gradients.begin(), weight_gradients.end());
  }
  return dx;
}

at::Tensor MoeLayer::InferenceMask(const RouterOutput& router) const {
  if (model_.family == Family::kTokenChoice) return ChooseByTokens(router.gate, model_.top_k);
  if (model_.family == Family::kExpertChoice) {
    const int64_t pool = model_.tokens_per_sample();
    return ChooseByExperts(router.gate, {}, pool, Capacities(pool)).mask;
  }
  if (options_.inference_rule == InferenceRule::kBatchTopK) {
    return ChooseByCount(router.gate, router.score, threshold_);
  }
  return ChooseByThreshold(router.score, threshold_);
}

at::Tensor MoeLayer::Apply(const at::Tensor& x, const at::Tensor& mask, const at::Tensor& gate,
                           int64_t* used) const {
  const ChosenRows chosen = IndexRows(mask);
  *used += chosen.ids.size(0);
  const at::Tensor outputs =
      experts_.Infer(GatherRows(x, chosen.ids), chosen.counts).to(gate.dtype());
  at::Tensor y = CombineRows(outputs, chosen.rows, gate).to(x.scalar_type());
  if (shared_.has_value()) {
    at::Tensor shared_y = at::empty_like(x);
    shared_->Infer(x, shared_y);
    y.add_(shared_y);
  }
  return y;
}

at::Tensor MoeLayer::Infer(const at::Tensor& x, int64_t unit_tokens, int64_t* used) const {
  const RouterOutput router = router_.Forward(x.to(threshold_.scalar_type()), unit_tokens);
  return Apply(x, InferenceMask(router), router.gate, used);
}

void MoeLayer::Pack() {
  router_.Pack();
  experts_.Pack();
  if (shared_.has_value()) shared_->Pack();
}

RouterOutput MoeLayer::Route(const at::Tensor& x) const {
  return router_.Infer(x.to(threshold_.scalar_type()));
}

at::Tensor MoeLayer::SampleMask(const RouterOutput& router, int64_t sample_tokens,
                                const at::Tensor& thresholds, const at::Tensor& by_gate) const {
  if (model_.family == Family::kTokenChoice) return ChooseByTokens(router.gate, model_.top_k);
  if (model_.family == Family::kExpertChoice) {
    return ChooseByExperts(router.gate, {}, sample_tokens, Capacities(sample_tokens)).mask;
  }
  if (!thresholds.defined()) return ChooseByThreshold(router.score, threshold_);
  return ChooseBySample(router.gate, router.score, thresholds.to(router.gate.scalar_type()),
                        by_gate, sample_tokens);
}

MoeLayer::Inferred MoeLayer::InferSamples(const at::Tensor& x, const RouterOutput& router,
                                          int64_t sample_tokens, const at::Tensor& thresholds,
                                          const at::Tensor& by_gate) const {
  Inferred out;
  out.mask = SampleMask(router, sample_tokens, thresholds, by_gate);
  int64_t used = 0;
  out.y = Apply(x, out.mask, router.gate, &used);
  return out;
}

}  // namespace diffmoe
