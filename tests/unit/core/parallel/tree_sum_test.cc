#include "core/parallel/tree_sum.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "core/parallel/gradient_tree.h"

namespace diffmoe {
namespace {

TEST(TreeSum, GivesTheBitsOfAGradientTree) {
  for (const int64_t ranks : {1, 2, 4, 8}) {
    for (const int64_t count : {1, 1023, 5000}) {
      GradientTree tree;
      std::vector<at::Tensor> leaves;
      std::vector<const float*> parts;
      for (int64_t r = 0; r < ranks; ++r) {
        leaves.push_back(at::randn({count}));
        parts.push_back(leaves.back().const_data_ptr<float>());
        tree.Add({leaves.back().clone()});
      }
      at::Tensor sum = at::empty({count});
      TreeSum<float>(parts, static_cast<size_t>(count), sum.mutable_data_ptr<float>());
      EXPECT_TRUE(sum.equal(tree.Take().front())) << ranks << " parts of " << count;
    }
  }
}

TEST(TreeSum, RefusesAnIncompleteTree) {
  const double one = 1;
  double sum = 0;
  const std::vector<const double*> parts(3, &one);
  EXPECT_THROW(TreeSum<double>(parts, 1, &sum), std::logic_error);
}

}  // namespace
}  // namespace diffmoe
