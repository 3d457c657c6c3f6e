// The gate and the capacity predictor of a MoE layer, over the tokens of one rank: per-unit calls,
// so that bits don't depend on how many units a rank has. Always in the dtype of the master weights
// (fp32, or fp64 in tests), whatever the precision of the network.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/kernels/packed_linear.h"
#include "core/model/parameters.h"

namespace diffmoe {

struct RouterOutput {
  at::Tensor gate;  // [n, E] softmax over experts
  // With a predictor only:
  at::Tensor hidden, active;  // [n, D] before and after SiLU
  at::Tensor logits, score;   // [n, E], and its sigmoid
};

class Router {
 public:
  Router(const Parameters& parameters, const std::string& prefix, bool has_predictor);

  // x: [n, D] in units of `unit_tokens` rows.
  RouterOutput Forward(const at::Tensor& x, int64_t unit_tokens) const;

  // Inference: from now on Infer uses packed weights, a copy of those of now.
  void Pack();
  // x: [n, D] fp32 or fp64. Only gate and score are set; in one call, so that bits depend on the
  // number of rows unless packed.
  RouterOutput Infer(const at::Tensor& x) const;

  // dgate: [n, E] gradient of the gate's probabilities; dlogits: [n, E] gradient of the predictor's
  // logits. Returns dx [n, D] of the gate; the predictor works on detached tokens, so its gradient
  // ends in its own weights. Appends per unit the gradients in the order of weight_names().
  at::Tensor Backward(const at::Tensor& x, const RouterOutput& output, const at::Tensor& dgate,
                      const at::Tensor& dlogits, int64_t unit_tokens,
                      std::vector<std::vector<at::Tensor>>* unit_gradients) const;

  const std::vector<std::string>& weight_names() const { return names_; }

 private:
  bool has_predictor_;
  std::vector<std::string> names_;
  at::Tensor gate_weight_, in_weight_, in_bias_, out_weight_, out_bias_;
  std::optional<PackedLinear> packed_gate_, packed_in_, packed_out_;
};

}  // namespace diffmoe
