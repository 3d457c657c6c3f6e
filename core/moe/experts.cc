#include "core/moe/experts.h"

#include <ATen/ops/empty_like.h>

#include "absl/strings/str_cat.h"

namespace diffmoe {

Experts::Experts(const ModelConfig& model, const Parameters& parameters, int64_t block) {
  const ExpertRange worked = parameters.layout().placement().worked();
  for (int64_t e = worked.first; e < worked.first + worked.count; ++e) {
    experts_.emplace_back(parameters, absl::StrCat("blocks.", block, ".mlp.experts.", e, "."),
                          model.activation);
  }
}

at::Tensor Experts::Forward(const at::Tensor& input, const std::vector<int64_t>& rows,
                            Saved* saved) const {
  at::Tensor output = at::empty_like(input);
  FeedForward::Saved networks;
  if (!experts_.empty()) networks = experts_.front().Allocate(input);
  int64_t begin = 0;
  for (size_t i = 0; i < experts_.size(); begin += rows[i], ++i) {
    if (rows[i] == 0) continue;
    experts_[i].Forward(input.narrow(0, begin, rows[i]), networks.Rows(begin, rows[i]),
                        output.narrow(0, begin, rows[i]));
  }
  if (saved != nullptr) *saved = {input, networks};
  return output;
}

void Experts::Pack() {
  for (FeedForward& expert : experts_) expert.Pack();
}

at::Tensor Experts::Infer(const at::Tensor& input, const std::vector<int64_t>& rows) const {
  at::Tensor output = at::empty_like(input);
  int64_t begin = 0;
  for (size_t i = 0; i < experts_.size(); begin += rows[i], ++i) {
    if (rows[i] == 0) continue;
    experts_[i].Infer(input.narrow(0, begin, rows[i]), output.narrow(0, begin, rows[i]));
  }
  return output;
}

at::Tensor Experts::Backward(const at::Tensor& grad, const std::vector<int64_t>& rows,
                             const Saved& saved, const Parameters& gradients) const {
  at::Tensor dinput = at::empty_like(saved.input);
  int64_t begin = 0;
  for (size_t i = 0; i < experts_.size(); begin += rows[i], ++i) {
    std::vector<at::Tensor> weight_gradients;
    for (const std::string& name : experts_[i].weight_names()) {
      weight_gradients.push_back(gradients.at(name));
    }
    experts_[i].Backward(grad.narrow(0, begin, rows[i]), saved.input.narrow(0, begin, rows[i]),
                         saved.networks.Rows(begin, rows[i]), dinput.narrow(0, begin, rows[i]),
                         weight_gradients);
  }
  return dinput;
}

}  // namespace diffmoe
