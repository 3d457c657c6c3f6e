// What a MoE layer keeps from its forward to its backward pass.
#pragma once

#include "core/moe/moe_layer.h"

namespace diffmoe {

struct MoeLayer::Saved {
  int64_t unit_tokens = 0;
  at::Tensor x;  // [n, D]
  RouterOutput router;
  Selection selection;
  Experts::Saved experts;
  at::Tensor returned;  // [sent rows, D] expert outputs, unweighted
  FeedForward::Saved shared;

  // Keeps the tokens, the gate and the selection: the rest can be computed again.
  void DropActivations() {
    router.hidden = router.active = router.logits = router.score = at::Tensor();
    experts = {};
    shared = {};
    returned = at::Tensor();
  }
};

}  // namespace diffmoe
