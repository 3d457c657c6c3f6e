// One feed-forward network, forward and backward by hand:
//   gelu:   fc2(gelu_tanh(fc1(x)))                 with biases
//   swiglu: down_proj(silu(gate_proj(x)) * up_proj(x))   without
// D features in and out, H hidden.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/kernels/packed_linear.h"
#include "core/model/parameters.h"
#include "core/spec/training_config.h"

namespace diffmoe {

class FeedForward {
 public:
  // Takes the tensors named `prefix` + "fc1.weight" etc. of `parameters`, which fixes the dtype of
  // the computation.
  FeedForward(const Parameters& parameters, const std::string& prefix, Activation activation);

  // Kept from forward to backward, for n rows.
  struct Saved {
    at::Tensor hidden;  // [n, H] before the activation
    at::Tensor up;      // [n, H], swiglu only
    at::Tensor active;  // [n, H]
    Saved Rows(int64_t begin, int64_t count) const;
  };
  // Room for n rows like those of `x`.
  Saved Allocate(const at::Tensor& x) const;

  // x: [n, D] -> y: [n, D]; fills `saved`.
  void Forward(const at::Tensor& x, const Saved& saved, at::Tensor y) const;
  // dy: [n, D] -> dx: [n, D]. Weight gradients are written (not added) into `gradients`, in the
  // order of weight_names(), of the dtype of the computation or wider. n may be 0: zeros.
  void Backward(const at::Tensor& dy, const at::Tensor& x, const Saved& saved, at::Tensor dx,
                const std::vector<at::Tensor>& gradients) const;

  // Inference: from now on Infer uses packed weights, a copy of those of now.
  void Pack();
  // x: [n, D] -> y: [n, D], keeps nothing. n may be 0.
  void Infer(const at::Tensor& x, at::Tensor y) const;

  const std::vector<std::string>& weight_names() const { return names_; }
  const std::vector<at::Tensor>& weights() const { return weights_; }

 private:
  Activation activation_;
  std::vector<std::string> names_;    // full names
  std::vector<at::Tensor> weights_;   // gelu: fc1 w, b, fc2 w, b; swiglu: gate, up, down
  std::vector<PackedLinear> packed_;  // gelu: fc1, fc2; swiglu: gate, up, down
};

}  // namespace diffmoe
