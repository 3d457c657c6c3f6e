#include "core/moe/experts.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include "absl/strings/str_cat.h"

namespace diffmoe {

Experts::Experts(const ParameterLayout& layout, const Parameters& parameters, int64_t block) {
  for (int64_t e = layout.first_expert(); e < layout.first_expert() + layout.expert_count(); ++e) {
    const std::string prefix = absl::StrCat("blocks.", block, ".mlp.experts.", e, ".");
    experts_.push_back({prefix, parameters.at(prefix + "fc1.weight"),
                        parameters.at(prefix + "fc1.bias"), parameters.at(prefix + "fc2.weight"),
                        parameters.at(prefix + "fc2.bias")});
  }
}

at::Tensor Experts::Forward(const at::Tensor& input, const std::vector<int64_t>& rows,
                            Saved* saved) const {
  const int64_t width = input.size(1), hidden_width = experts_.front().fc1_bias.size(0);
  at::Tensor output = at::empty({input.size(0), width}, input.options());
  at::Tensor hidden = at::empty({input.size(0), hidden_width}, input.options());
  at::Tensor active = at::empty_like(hidden);
  int64_t begin = 0;
  for (size_t i = 0; i < experts_.size(); begin += rows[i], ++i) {
    if (rows[i] == 0) continue;
    const Weights& w = experts_[i];
    at::Tensor h = hidden.narrow(0, begin, rows[i]), a = active.narrow(0, begin, rows[i]);
    at::Tensor y = output.narrow(0, begin, rows[i]);
    at::addmm_out(h, w.fc1_bias, input.narrow(0, begin, rows[i]), w.fc1_weight.t());
    at::gelu_out(a, h, "tanh");
    at::addmm_out(y, w.fc2_bias, a, w.fc2_weight.t());
  }
  if (saved != nullptr) *saved = {input, hidden, active};
  return output;
}

at::Tensor Experts::Backward(const at::Tensor& grad, const std::vector<int64_t>& rows,
                             const Saved& saved, const Parameters& gradients) const {
  at::Tensor dinput = at::empty_like(saved.input);
  int64_t begin = 0;
  for (size_t i = 0; i < experts_.size(); begin += rows[i], ++i) {
    const Weights& w = experts_[i];
    at::Tensor dw1 = gradients.at(w.prefix + "fc1.weight"),
               db1 = gradients.at(w.prefix + "fc1.bias");
    at::Tensor dw2 = gradients.at(w.prefix + "fc2.weight"),
               db2 = gradients.at(w.prefix + "fc2.bias");
    const at::Tensor x = saved.input.narrow(0, begin, rows[i]),
                     h = saved.hidden.narrow(0, begin, rows[i]);
    const at::Tensor a = saved.active.narrow(0, begin, rows[i]),
                     dy = grad.narrow(0, begin, rows[i]);
    at::mm_out(dw2, dy.t(), a);
    at::sum_out(db2, dy, {0});
    const at::Tensor dhidden = at::gelu_backward(at::mm(dy, w.fc2_weight), h, "tanh");
    at::mm_out(dw1, dhidden.t(), x);
    at::sum_out(db1, dhidden, {0});
    at::Tensor dx = dinput.narrow(0, begin, rows[i]);
    at::mm_out(dx, dhidden, w.fc1_weight);
  }
  return dinput;
}

}  // namespace diffmoe
