#include "core/parallel/gradient_tree.h"

#include <ATen/ops/empty.h>

#include <stdexcept>
#include <utility>

namespace diffmoe {

void GradientTree::Add(std::vector<at::Tensor> leaf) {
  nodes_.push_back({0, std::move(leaf)});
  while (nodes_.size() > 1 && nodes_[nodes_.size() - 2].level == nodes_.back().level) {
    const Node right = std::move(nodes_.back());
    nodes_.pop_back();
    Node& left = nodes_.back();
    for (size_t i = 0; i < left.sum.size(); ++i) left.sum[i].add_(right.sum[i]);
    ++left.level;
  }
}

std::vector<at::Tensor> GradientTree::Take() {
  if (nodes_.size() != 1) throw std::logic_error("units per rank must be a power of two");
  std::vector<at::Tensor> sum = std::move(nodes_.front().sum);
  nodes_.clear();
  return sum;
}

at::Tensor ReduceScatterTree(Collectives& collectives, const at::Tensor& flat,
                             const std::string& what) {
  const int64_t ranks = collectives.world_size();
  if (ranks == 1) return flat;
  at::Tensor sum = at::empty({flat.numel() / ranks}, flat.options());
  collectives.ReduceScatter(sum, flat, what);
  return sum;
}

}  // namespace diffmoe
