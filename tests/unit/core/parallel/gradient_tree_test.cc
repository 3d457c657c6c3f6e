#include "core/parallel/gradient_tree.h"

#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace diffmoe {
namespace {

TEST(GradientTree, AddsAsAFixedBinaryTree) {
  std::vector<at::Tensor> leaves;
  for (int i = 0; i < 8; ++i) leaves.push_back(at::randn({64}));
  const auto pair = [&](int i) {
    return leaves[static_cast<size_t>(i)].add(leaves[static_cast<size_t>(i + 1)]);
  };
  const at::Tensor want = pair(0).add(pair(2)).add(pair(4).add(pair(6)));
  GradientTree tree;
  for (const at::Tensor& leaf : leaves) tree.Add({leaf.clone()});
  EXPECT_TRUE(tree.Take().front().equal(want));
}

TEST(GradientTree, HalvesOnTwoRanksGiveTheSameBitsAsOne) {
  std::vector<at::Tensor> leaves;
  for (int i = 0; i < 8; ++i) leaves.push_back(at::randn({64}));
  GradientTree whole, left, right, top;
  for (int i = 0; i < 8; ++i) {
    whole.Add({leaves[static_cast<size_t>(i)].clone()});
    (i < 4 ? left : right).Add({leaves[static_cast<size_t>(i)].clone()});
  }
  top.Add(left.Take());
  top.Add(right.Take());
  EXPECT_TRUE(top.Take().front().equal(whole.Take().front()));
}

TEST(GradientTree, RefusesAnIncompleteTree) {
  GradientTree tree;
  for (int i = 0; i < 3; ++i) tree.Add({at::full({1}, 1.0f)});
  EXPECT_THROW(tree.Take(), std::logic_error);
}

}  // namespace
}  // namespace diffmoe
