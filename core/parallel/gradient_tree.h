// Sums in an order that depends on unit ids only: a fixed binary tree. Used for gradients of shared
// weights, over the units of one rank and over ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/parallel/collectives.h"

namespace diffmoe {

// Adds equally long lists of tensors, leaf by leaf, like a binary counter: after 2^k leaves one
// complete subtree is left. At most log2(leaves) + 1 lists are alive. Takes ownership of the
// leaves' memory (adds in place).
class GradientTree {
 public:
  void Add(std::vector<at::Tensor> leaf);
  // The sum. The number of leaves must have been a power of two; leaves the tree empty.
  std::vector<at::Tensor> Take();

 private:
  struct Node {
    int level;
    std::vector<at::Tensor> sum;
  };
  std::vector<Node> nodes_;
};

// flat: [n] on every rank, n a multiple of the world size. Returns this rank's slice [n /
// world_size] of the sum over all ranks, added as a binary tree over ranks. Same bits for any world
// size that is a power of two.
at::Tensor ReduceScatterTree(Collectives& collectives, const at::Tensor& flat,
                             const std::string& what);

}  // namespace diffmoe
