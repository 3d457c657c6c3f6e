// The DiffMoE layer (arXiv 2503.14487) over the global token pool: every expert takes its K tokens
// with the largest gate score from the tokens of all samples on all ranks, exactly. The one class
// that sees other samples and other ranks.
//
// With T = tokens of the global batch, E experts, R ranks, each rank holding T/R tokens and E/R
// experts:
//   p = softmax(x Wr^T)                         [T/R, E] fp32 or wider
//   scores go to the expert owners               all-to-all [T/R, E/R]
//   owner: K best per expert, threshold quantile
//   selection mask comes back                    all-to-all [T/R, E/R] bytes
//   selected rows go to the owners, FFN, back    all-to-all of rows, exactly K per expert
//   y[t] = sum over chosen e, ascending, of p[t, e] * FFN_e(x[t])
// Backward is the same exchange the other way round.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/model/parameters.h"
#include "core/moe/experts.h"
#include "core/moe/token_exchange.h"
#include "core/parallel/collectives.h"

namespace diffmoe {

// A score that is not a number: names layer, rank and expert. Ends the step.
class NonFiniteScoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct MoeOptions {
  double capacity = 1;  // C
  double threshold_decay = 0.95;
  bool threshold_starts_at_zero =
      false;  // published code: the first update starts from 0; otherwise tau = first quantile
  double predictor_loss_weight = 1;  // factor on this layer's mean BCE in the loss
};

// What the layer did in one training step, for this rank's tokens. Inference-rule figures use the
// threshold before the update.
struct MoeStepStats {
  std::vector<double> tokens_above_threshold;  // per expert
  double tokens_without_expert = 0;            // by the inference rule
  double agreeing_decisions =
      0;  // (token, expert) pairs where the inference rule equals the selection
  std::vector<double> unit_predictor_loss;  // per unit: sum of BCE over its tokens and experts / (T
                                            // * E), unweighted
};

class MoeLayer {
 public:
  MoeLayer(const ModelConfig& model, int64_t block, const Parameters& parameters,
           const MoeOptions& options, Collectives& collectives);

  // Kept from Forward to Backward.
  struct Saved;
  struct SavedDeleter {
    void operator()(Saved* saved) const;
  };
  using SavedPtr = std::unique_ptr<Saved, SavedDeleter>;

  // Training. x: [T/R, D], this rank's tokens, units of `unit_tokens` rows one after the other.
  // Returns y: [T/R, D]. Updates the threshold unless `update_threshold` is false (recomputation).
  at::Tensor Forward(const at::Tensor& x, int64_t unit_tokens, bool update_threshold,
                     SavedPtr* saved, MoeStepStats* stats);

  // dy: [T/R, D] -> dx: [T/R, D]. Expert gradients are written into `gradients`. Gradients of gate
  // and predictor are returned per unit, in the order of router_places().
  at::Tensor Backward(const at::Tensor& dy, const Saved& saved, const Parameters& gradients,
                      std::vector<std::vector<at::Tensor>>* unit_gradients);

  // Inference, one rank that owns all experts. Token t uses expert e iff sigmoid(predictor[t, e]) >
  // threshold[e], so batch mates never matter. x: [n, D] -> [n, D]; adds the number of (token,
  // expert) pairs used to *used.
  at::Tensor Infer(const at::Tensor& x, int64_t unit_tokens, int64_t* used) const;

  // Gate and predictor in the order of Backward's per-unit gradients.
  const std::vector<ParameterPlace>& router_places() const { return router_places_; }

  // [E], of the parameters' dtype. Same bits on every rank.
  const at::Tensor& threshold() const { return threshold_; }
  bool threshold_initialized() const { return threshold_initialized_; }
  void SetThreshold(const at::Tensor& threshold, bool initialized);

  int64_t block() const { return block_; }
  // For tests and observation: ids of the tokens (global) that each owned expert took in the last
  // Forward, ascending.
  const std::vector<std::vector<int64_t>>& last_selection() const { return last_selection_; }

 private:
  void Route(const at::Tensor& x, int64_t unit_tokens, Saved& saved) const;
  void UpdateThreshold(const at::Tensor& quantiles);
  void CollectStats(const Saved& saved, MoeStepStats* stats) const;
  at::Tensor RouterBackward(const Saved& saved, const at::Tensor& dgate,
                            std::vector<std::vector<at::Tensor>>* unit_gradients) const;

  const ModelConfig model_;
  const int64_t block_;
  const MoeOptions options_;
  at::Tensor gate_weight_, predictor_in_weight_, predictor_in_bias_, predictor_out_weight_,
      predictor_out_bias_;
  std::vector<ParameterPlace> router_places_;
  Experts experts_;
  TokenExchange exchange_;
  at::Tensor threshold_;
  bool threshold_initialized_ = false;
  std::vector<std::vector<int64_t>> last_selection_;
};

}  // namespace diffmoe
