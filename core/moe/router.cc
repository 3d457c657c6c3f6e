#include "core/moe/router.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/softmax.h>

#include "core/base/planted_faults.h"
#include "core/kernels/row_functions.h"

namespace diffmoe {

Router::Router(const Parameters& parameters, const std::string& prefix, bool has_predictor)
    : has_predictor_(has_predictor) {
  const auto weight = [&](const std::string& name) {
    names_.push_back(prefix + name);
    return parameters.at(names_.back()).detach();
  };
  gate_weight_ =
      weight(parameters.contains(prefix + "gate_weight") ? "gate_weight" : "gate.weight");
  if (!has_predictor) return;
  in_weight_ = weight("capacity_predictor.0.weight");
  in_bias_ = weight("capacity_predictor.0.bias");
  out_weight_ = weight("capacity_predictor.2.weight");
  out_bias_ = weight("capacity_predictor.2.bias");
}

RouterOutput Router::Forward(const at::Tensor& x, int64_t unit_tokens) const {
  const int64_t tokens = x.size(0);
  RouterOutput out;
  out.gate = at::empty({tokens, gate_weight_.size(0)}, x.options());
  if (has_predictor_) {
    out.hidden = at::empty_like(x);
    out.active = at::empty_like(x);
    out.logits = at::empty_like(out.gate);
    out.score = at::empty_like(out.gate);
  }
  for (int64_t begin = 0; begin < tokens; begin += unit_tokens) {
    const auto unit = [&](const at::Tensor& t) { return t.narrow(0, begin, unit_tokens); };
    const at::Tensor rows = unit(x);
    unit(out.gate).copy_(at::softmax(at::mm(rows, gate_weight_.t()), -1));
    if (!has_predictor_) continue;
    at::Tensor hidden = unit(out.hidden), active = unit(out.active);
    at::Tensor logits = unit(out.logits), score = unit(out.score);
    at::addmm_out(hidden, in_bias_, rows, in_weight_.t());
    at::silu_out(active, hidden);
    at::addmm_out(logits, out_bias_, active, out_weight_.t());
    at::sigmoid_out(score, logits);
  }
  return out;
}

void Router::Pack() {
  packed_gate_.emplace(gate_weight_, at::Tensor());
  if (!has_predictor_) return;
  packed_in_.emplace(in_weight_, in_bias_);
  packed_out_.emplace(out_weight_, out_bias_);
}

RouterOutput Router::Infer(const at::Tensor& x) const {
  if (!packed_gate_) return Forward(x, x.size(0));
  RouterOutput out;
  out.gate = packed_gate_->Apply(x);
  SoftmaxRowsInPlace(out.gate);
  if (!has_predictor_) return out;
  at::Tensor hidden = packed_in_->Apply(x);
  SiluInPlace(hidden);
  out.score = packed_out_->Apply(hidden);
  SigmoidInPlace(out.score);
  return out;
}

at::Tensor Router::Backward(const at::Tensor& x, const RouterOutput& output,
                            const at::Tensor& dgate, const at::Tensor& dlogits, int64_t unit_tokens,
                            std::vector<std::vector<at::Tensor>>* unit_gradients) const {
  // Softmax: d = p * (dp - <dp, p>).
  const at::Tensor weighted = dgate.mul(output.gate);
  const at::Tensor dscores = weighted.sub(output.gate.mul(weighted.sum(-1, /*keepdim=*/true)));
  at::Tensor dx = at::empty_like(x);
  for (int64_t begin = 0; begin < x.size(0); begin += unit_tokens) {
    const auto unit = [&](const at::Tensor& t) { return t.narrow(0, begin, unit_tokens); };
    at::Tensor dx_unit = unit(dx);
    at::mm_out(dx_unit, unit(dscores), gate_weight_);
    std::vector<at::Tensor>& gradients = unit_gradients->emplace_back();
    gradients.push_back(at::mm(unit(dscores).t(), unit(x)));
    if (!has_predictor_) continue;
    const at::Tensor dz = unit(dlogits);
    const at::Tensor dhidden = at::silu_backward(at::mm(dz, out_weight_), unit(output.hidden));
    gradients.push_back(at::mm(dhidden.t(), unit(x)));
    gradients.push_back(dhidden.sum(0));
    gradients.push_back(at::mm(dz.t(), unit(output.active)));
    gradients.push_back(dz.sum(0));
    if (Planted(Fault::kPredictorLeaksIntoTrunk)) dx_unit.addmm_(dhidden, in_weight_);
  }
  return dx;
}

}  // namespace diffmoe
