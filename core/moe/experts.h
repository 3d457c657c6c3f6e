// The feed-forward networks of the experts that one rank owns: FFN_e(x) = fc2(gelu_tanh(fc1(x))),
// forward and backward by hand, one call per expert over all of its rows in ascending token id.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/model/parameters.h"

namespace diffmoe {

class Experts {
 public:
  // Experts [first, first + count) of `block`, as held by `parameters`, which must outlive this
  // object.
  Experts(const ParameterLayout& layout, const Parameters& parameters, int64_t block);

  // Kept from forward to backward.
  struct Saved {
    at::Tensor input;   // [sum K, D]
    at::Tensor hidden;  // [sum K, H] before the activation
    at::Tensor active;  // [sum K, H] after it
  };

  // input: [sum(rows), D], rows of expert after expert -> [sum(rows), D]. `saved` may be null at
  // inference. Experts without rows are skipped.
  at::Tensor Forward(const at::Tensor& input, const std::vector<int64_t>& rows, Saved* saved) const;

  // Gradient of the input; weight gradients are written (not added) into `gradients`, which has the
  // layout of `parameters`.
  at::Tensor Backward(const at::Tensor& grad, const std::vector<int64_t>& rows, const Saved& saved,
                      const Parameters& gradients) const;

 private:
  struct Weights {
    std::string prefix;
    at::Tensor fc1_weight, fc1_bias, fc2_weight, fc2_bias;
  };
  std::vector<Weights> experts_;
};

}  // namespace diffmoe
