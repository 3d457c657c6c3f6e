#include "core/kernels/permute_ops.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "tests/unit/core/kernels/permute_cases.h"

namespace diffmoe {
namespace {

struct Shape {
  int64_t tokens, experts, width;
};
constexpr Shape kShapes[] = {{1, 1, 1}, {5, 3, 7}, {64, 8, 192}, {33, 4, 64}, {0, 4, 8}, {6, 2, 0}};

template <typename Real>
at::Tensor NaiveCombine(const at::Tensor& rows, const at::Tensor& index,
                        const at::Tensor* weights) {
  at::Tensor out = at::zeros({index.size(0), rows.size(1)}, rows.options());
  for (int64_t t = 0; t < index.size(0); ++t) {
    for (int64_t d = 0; d < rows.size(1); ++d) {
      Real sum = 0;
      for (int64_t e = 0; e < index.size(1); ++e) {
        const int row = index[t][e].item<int>();
        if (row < 0) continue;
        const Real weight = weights == nullptr ? Real{1} : (*weights)[t][e].item<Real>();
        sum += weight * rows[row][d].item<Real>();
      }
      out[t][d] = sum;
    }
  }
  return out;
}

TEST(GatherRowsTest, CopiesRowsOfAnyType) {
  for (const Shape& shape : kShapes) {
    for (at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
      const PermuteCase c = MakePermuteCase(shape.tokens, shape.experts, shape.width, dtype, 1);
      EXPECT_TRUE(SameBits(GatherRows(c.tokens, c.ids), at::index_select(c.tokens, 0, c.ids)));
    }
  }
  const at::Tensor bytes = at::arange(12, at::kByte).view({4, 3});
  const at::Tensor ids = at::full({2}, 3, at::kLong);
  EXPECT_TRUE(SameBits(GatherRows(bytes, ids), at::index_select(bytes, 0, ids)));
}

TEST(CombineRowsTest, AgreesWithANaiveLoopBitForBit) {
  for (const Shape& shape : {Shape{1, 1, 1}, Shape{5, 3, 7}, Shape{9, 8, 16}, Shape{0, 4, 8}}) {
    for (at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      const PermuteCase c = MakePermuteCase(shape.tokens, shape.experts, shape.width, dtype, 2);
      const at::Tensor rows = GatherRows(c.tokens, c.ids);
      const auto naive = dtype == at::kFloat ? NaiveCombine<float> : NaiveCombine<double>;
      EXPECT_TRUE(
          SameBits(CombineRows(rows, c.index, std::nullopt), naive(rows, c.index, nullptr)));
      EXPECT_TRUE(
          SameBits(CombineRows(rows, c.index, c.weights), naive(rows, c.index, &c.weights)));
    }
  }
}

TEST(CombineRowsTest, UndoesAGatherWhenEachTokenHasOneExpert) {
  const PermuteCase c = MakePermuteCase(20, 2, 24, at::kFloat, 3);
  at::Tensor index = at::full({20, 2}, -1, at::kInt);
  std::vector<int64_t> order;
  for (int e = 0; e < 2; ++e) {
    for (int t = e; t < 20; t += 2) {
      index[t][e] = static_cast<int>(order.size());
      order.push_back(t);
    }
  }
  at::Tensor ids = at::empty({20}, at::kLong);
  for (int i = 0; i < 20; ++i) ids[i] = order[i];
  EXPECT_TRUE(SameBits(CombineRows(GatherRows(c.tokens, ids), index, std::nullopt), c.tokens));
}

TEST(PermuteOpsTest, StridedInputsAreUnderstood) {
  const PermuteCase c = MakePermuteCase(12, 4, 10, at::kFloat, 4);
  const at::Tensor strided = c.tokens.t().contiguous().t();
  ASSERT_FALSE(strided.is_contiguous());
  EXPECT_TRUE(SameBits(GatherRows(strided, c.ids), GatherRows(c.tokens, c.ids)));
  const at::Tensor rows = GatherRows(c.tokens, c.ids);
  EXPECT_TRUE(SameBits(CombineRows(rows.t().contiguous().t(), c.index.t().contiguous().t(),
                                   c.weights.t().contiguous().t()),
                       CombineRows(rows, c.index, c.weights)));
}

TEST(PermuteOpsTest, WrongArgumentsAreNamed) {
  const at::Tensor rows = at::ones({4, 3}), index = at::zeros({2, 2}, at::kInt);
  EXPECT_THROW(GatherRows(rows, at::full({1}, 4, at::kLong)), c10::Error);
  EXPECT_THROW(GatherRows(rows, at::full({1}, -1, at::kLong)), c10::Error);
  EXPECT_THROW(GatherRows(rows, at::zeros({1}, at::kInt)), c10::Error);
  EXPECT_THROW(GatherRows(at::ones({4}), at::zeros({1}, at::kLong)), c10::Error);
  EXPECT_THROW(GatherRows(rows, at::zeros({1, 1}, at::kLong)), c10::Error);
  EXPECT_THROW(CombineRows(rows, at::full({2, 2}, 4, at::kInt), std::nullopt), c10::Error);
  EXPECT_THROW(CombineRows(rows, at::zeros({2, 2}, at::kLong), std::nullopt), c10::Error);
  EXPECT_THROW(CombineRows(rows.to(at::kHalf), index, std::nullopt), c10::Error);
  EXPECT_THROW(CombineRows(rows, index, at::ones({2, 3})), c10::Error);
  EXPECT_THROW(CombineRows(rows, index, at::ones({2, 2}, at::kDouble)), c10::Error);
  try {
    GatherRows(rows, at::full({1}, 4, at::kLong));
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("ids[0] is 4, rows has 4"), std::string::npos);
  }
}

}  // namespace
}  // namespace diffmoe
