// Losses of the router and what is observed of a MoE layer.
#include <ATen/Dispatch.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/xlogy.h>

#include "core/moe/saved.h"

namespace diffmoe {

void MoeLayer::CollectStats(const Saved& saved, MoeStepStats* stats) const {
  const int64_t tokens = saved.x.size(0), experts = model_.experts;
  // What the inference rule would do with these tokens; of the families without predictor it does
  // what training does.
  const bool by_threshold = has_predictor() && options_.inference_rule == InferenceRule::kPerToken;
  const at::Tensor mask = saved.selection.mask;
  const at::Tensor inferred = by_threshold ? InferenceMask(saved.router) : mask;
  const uint8_t* taken = mask.const_data_ptr<uint8_t>();
  const uint8_t* used = inferred.const_data_ptr<uint8_t>();
  *stats = {};
  stats->tokens_per_expert.assign(static_cast<size_t>(experts), 0);
  for (int64_t t = 0; t < tokens; ++t) {
    bool any = false;
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t i = t * experts + e;
      any = any || used[i] != 0;
      stats->tokens_per_expert[static_cast<size_t>(e)] += used[i];
      stats->agreeing_decisions += used[i] == taken[i] ? 1 : 0;
    }
    stats->tokens_without_expert += any ? 0 : 1;
  }
  stats->rows_to_rank = saved.selection.send_counts;
  const at::Tensor entropy = at::xlogy(saved.router.gate, saved.router.gate).neg().sum(-1);
  for (int64_t begin = 0; begin < tokens; begin += saved.unit_tokens) {
    stats->unit_gate_entropy.push_back(
        entropy.narrow(0, begin, saved.unit_tokens).sum(at::kDouble).item<double>());
  }
}

void MoeLayer::CollectRouterLoss(const Saved& saved, MoeStepStats* stats) const {
  const int64_t tokens = saved.x.size(0), pool = tokens * exchange_.world_size();
  const double experts = static_cast<double>(model_.experts), pooled = static_cast<double>(pool);
  for (int64_t begin = 0; begin < tokens; begin += saved.unit_tokens) {
    const auto unit = [&](const at::Tensor& t) { return t.narrow(0, begin, saved.unit_tokens); };
    double loss = 0;
    if (has_predictor()) {
      const at::Tensor target = unit(saved.selection.mask).to(saved.router.logits.scalar_type());
      loss = at::binary_cross_entropy_with_logits(unit(saved.router.logits), target, {}, {},
                                                  at::Reduction::Sum)
                 .item<double>() /
             (pooled * experts);
    } else if (model_.family == Family::kTokenChoice) {
      const at::Tensor probability =
          unit(saved.router.gate).sum(at::IntArrayRef{0}, false, at::kDouble);
      for (int64_t e = 0; e < model_.experts; ++e) {
        const double share =
            static_cast<double>(saved.selection.expert_tokens[static_cast<size_t>(e)]) /
            (pooled * static_cast<double>(model_.top_k));
        loss += kBalanceAlpha * experts * share * probability[e].item<double>() / pooled;
      }
    }
    stats->unit_router_loss.push_back(loss);
  }
}

void MoeLayer::AddRouterLoss(const Saved& saved, at::Tensor& dgate, at::Tensor* dlogits) const {
  const int64_t tokens = saved.x.size(0), experts = model_.experts;
  const double pool = static_cast<double>(tokens * exchange_.world_size());
  if (has_predictor()) {
    const double count = pool * static_cast<double>(experts);
    *dlogits = saved.router.score.sub(saved.selection.mask.to(saved.router.score.scalar_type()))
                   .mul_(options_.predictor_loss_weight / count);
  } else if (model_.family == Family::kTokenChoice) {
    AT_DISPATCH_FLOATING_TYPES(dgate.scalar_type(), "balance_loss", [&] {
      scalar_t* gradient = dgate.mutable_data_ptr<scalar_t>();
      for (int64_t e = 0; e < experts; ++e) {
        const double share =
            static_cast<double>(saved.selection.expert_tokens[static_cast<size_t>(e)]) /
            (pool * static_cast<double>(model_.top_k));
        const scalar_t addend = static_cast<scalar_t>(options_.balance_loss_weight * kBalanceAlpha *
                                                      static_cast<double>(experts) * share / pool);
        for (int64_t t = 0; t < tokens; ++t) gradient[t * experts + e] += addend;
      }
    });
  }
}

}  // namespace diffmoe
