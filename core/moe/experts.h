// The feed-forward networks of the experts whose rows this rank computes: one call per expert over
// all of its rows, in the order in which they stand.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/moe/feed_forward.h"

namespace diffmoe {

class Experts {
 public:
  // The experts of `block` that the layout's placement lets this rank work. `parameters` must
  // outlive this object.
  Experts(const ModelConfig& model, const Parameters& parameters, int64_t block);

  // Kept from forward to backward.
  struct Saved {
    at::Tensor input;  // [sum K, D]
    FeedForward::Saved networks;
  };

  // input: [sum(rows), D], rows of expert after expert -> [sum(rows), D].
  at::Tensor Forward(const at::Tensor& input, const std::vector<int64_t>& rows, Saved* saved) const;

  // Inference: from now on Infer uses packed weights, a copy of those of now.
  void Pack();
  // As Forward, keeps nothing.
  at::Tensor Infer(const at::Tensor& input, const std::vector<int64_t>& rows) const;

  // Gradient of the input; weight gradients are written (not added) into `gradients`, which has the
  // layout of the parameters.
  at::Tensor Backward(const at::Tensor& grad, const std::vector<int64_t>& rows, const Saved& saved,
                      const Parameters& gradients) const;

 private:
  std::vector<FeedForward> experts_;
};

}  // namespace diffmoe
