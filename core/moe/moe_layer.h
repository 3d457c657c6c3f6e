// One mixture-of-experts layer over the tokens of all ranks: DiffMoE (arXiv 2503.14487), expert
// choice or token choice. The one class that sees other samples and other ranks.
//
// With n tokens on each of R ranks and E experts:
//   p = softmax(x Wr^T)                          [n, E]
//   which experts take which tokens               by the family, see Select
//   selected rows go to the experts, FFN, back    all-to-all of rows
//   y[t] = sum over chosen e, ascending, of p[t, e] * FFN_e(x[t]), plus the shared expert
// Backward is the same exchange the other way round. DiffMoE's choice is exact over the global
// pool: scores go to the expert owners, each takes its K best, the mask comes back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/model/parameters.h"
#include "core/moe/experts.h"
#include "core/moe/router.h"
#include "core/moe/token_exchange.h"
#include "core/parallel/collectives.h"

namespace diffmoe {

struct MoeOptions {
  double threshold_decay = 0.95;
  ThresholdInit threshold_init = ThresholdInit::kQuantile;
  InferenceRule inference_rule = InferenceRule::kPerToken;
  bool round_capacity_down = false;
  double predictor_loss_weight = 1;  // factor on this layer's mean BCE in the loss
  double balance_loss_weight = 1;    // factor on the auxiliary loss of token choice, kBalanceAlpha
};

// Weight of the load-balancing loss of token choice: alpha * sum over experts of E * f_e * P_e, f
// the share of assignments and P the mean probability over the pool (arXiv 2101.03961).
inline constexpr double kBalanceAlpha = 0.01;

// What the layer did in one training forward, for this rank's tokens. Figures by the inference rule
// use the threshold before the update.
struct MoeStepStats {
  std::vector<double> tokens_per_expert;  // by the inference rule
  double tokens_without_expert = 0;       // by the inference rule
  // (token, expert) pairs where the inference rule equals the selection
  double agreeing_decisions = 0;
  // Per unit: its part of the mean BCE of the predictor, or of the balance loss; unweighted.
  std::vector<double> unit_router_loss;
  std::vector<double> unit_gate_entropy;  // per unit: sum over tokens, in nats
  std::vector<int64_t> rows_to_rank;      // token rows sent to each rank
  int64_t bytes_sent = 0, collectives = 0;
};

class MoeLayer {
 public:
  // `compute` holds the weights of experts and shared expert in the precision of the network; the
  // router uses `parameters`. Both must outlive the layer and may be the same object.
  MoeLayer(const ModelConfig& model, int64_t block, const Parameters& parameters,
           const Parameters& compute, const MoeOptions& options, Collectives& collectives);

  // Kept from Forward to Backward.
  struct Saved;
  struct SavedDeleter {
    void operator()(Saved* saved) const;
  };
  using SavedPtr = std::unique_ptr<Saved, SavedDeleter>;

  // Training. x: [n, D] of the network's precision, this rank's tokens, units of `unit_tokens` rows
  // one after the other. Returns y: [n, D]. The threshold stays: see UpdateThreshold.
  // keep_activations = false: Backward computes them again, with the same selection.
  at::Tensor Forward(const at::Tensor& x, int64_t unit_tokens, bool keep_activations,
                     SavedPtr* saved, MoeStepStats* stats);

  // dy: [n, D] -> dx: [n, D]. Expert gradients are written into `gradients`, which has the layout
  // of the parameters. Gradients of router and shared expert are returned per unit, in the order of
  // unit_places().
  at::Tensor Backward(const at::Tensor& dy, Saved& saved, const Parameters& gradients,
                      std::vector<std::vector<at::Tensor>>* unit_gradients);

  // Inference, one rank that holds all experts. Token choice and the per-token threshold rule
  // decide per token, expert choice per sample, so batch mates never matter; `batch_topk` counts
  // over the batch. x: [n, D] -> [n, D]; adds the number of (token, expert) pairs used to *used.
  at::Tensor Infer(const at::Tensor& x, int64_t unit_tokens, int64_t* used) const;

  // Inference in two halves, for samples that share a call. From Pack on, products use packed
  // weights, a copy of those of now, and a row's bits depend on that row alone.
  void Pack();
  // x: [b * sample_tokens, D], samples one after the other.
  RouterOutput Route(const at::Tensor& x) const;
  // `thresholds`: [b, E], undefined for the layer's own; `by_gate`: see ChooseBySample. Families
  // without predictor take neither. Returns y [b * sample_tokens, D] and the mask.
  struct Inferred {
    at::Tensor y;
    at::Tensor mask;  // [b * sample_tokens, E] uint8
  };
  Inferred InferSamples(const at::Tensor& x, const RouterOutput& router, int64_t sample_tokens,
                        const at::Tensor& thresholds, const at::Tensor& by_gate) const;

  // Parameters whose gradients come per unit.
  const std::vector<ParameterPlace>& unit_places() const { return unit_places_; }

  // [E] of the parameters' dtype, the same bits on every rank; [0] without predictor.
  const at::Tensor& threshold() const { return threshold_; }
  bool threshold_initialized() const { return threshold_initialized_; }
  void SetThreshold(const at::Tensor& threshold, bool initialized);
  // tau <- decay * tau + (1 - decay) * q, once per step. quantiles: [E] fp64 of this step.
  void UpdateThreshold(const at::Tensor& quantiles);
  // K-th largest predictor score of each expert in that Forward, [E] fp64; undefined without
  // predictor.
  static const at::Tensor& Quantiles(const Saved& saved);
  // [n, E] uint8: the selection of that Forward.
  static const at::Tensor& Mask(const Saved& saved);

  int64_t block() const { return block_; }
  bool has_predictor() const { return model_.family == Family::kDiffMoe; }

 private:
  Selection Select(const RouterOutput& router) const;
  at::Tensor InferenceMask(const RouterOutput& router) const;
  at::Tensor SampleMask(const RouterOutput& router, int64_t sample_tokens,
                        const at::Tensor& thresholds, const at::Tensor& by_gate) const;
  // Experts, and the shared expert, of the chosen tokens.
  at::Tensor Apply(const at::Tensor& x, const at::Tensor& mask, const at::Tensor& gate,
                   int64_t* used) const;
  // Everything after the selection.
  at::Tensor Compute(Saved& saved) const;
  void CollectStats(const Saved& saved, MoeStepStats* stats) const;
  void CollectRouterLoss(const Saved& saved, MoeStepStats* stats) const;
  // Gradients of the router's outputs that come from its own losses.
  void AddRouterLoss(const Saved& saved, at::Tensor& dgate, at::Tensor* dlogits) const;
  std::vector<int64_t> Capacities(int64_t pool_tokens) const;

  const ModelConfig model_;
  const int64_t block_;
  const MoeOptions options_;
  Router router_;
  Experts experts_;
  std::optional<FeedForward> shared_;
  mutable TokenExchange exchange_;
  std::vector<ParameterPlace> unit_places_;
  at::Tensor threshold_;
  bool threshold_initialized_ = false;
};

}  // namespace diffmoe
