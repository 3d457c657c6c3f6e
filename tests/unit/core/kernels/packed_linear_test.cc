#include "core/kernels/packed_linear.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/kernels/row_functions.h"

namespace diffmoe {
namespace {

struct Shape {
  int64_t in, out;
};

class PackedLinearTest : public testing::TestWithParam<Shape> {
 protected:
  const at::Tensor weight_ = at::randn({GetParam().out, GetParam().in});
  const at::Tensor bias_ = at::randn({GetParam().out});
  const PackedLinear packed_{weight_, bias_};
};

TEST_P(PackedLinearTest, EqualsTheProductInDoublePrecision) {
  const at::Tensor x = at::randn({3, 37, GetParam().in});
  const at::Tensor want =
      at::linear(x.to(at::kDouble), weight_.to(at::kDouble), bias_.to(at::kDouble));
  const at::Tensor got = packed_.Apply(x);
  EXPECT_EQ(got.sizes(), want.sizes());
  // A chain of n roundings of partial sums, each of a few times sqrt(n): 10 sqrt(n) is never
  // reached.
  const double n = static_cast<double>(GetParam().in);
  const double bound = std::ldexp(1.0, -24) * n * 10 * std::sqrt(n);
  EXPECT_LT(got.to(at::kDouble).sub(want).abs().max().item<double>(), bound);
}

TEST_P(PackedLinearTest, ARowsBitsDependOnThatRowAlone) {
  const at::Tensor rows = at::randn({211, GetParam().in});
  const at::Tensor all = packed_.Apply(rows);
  for (int64_t count : {1, 2, 3, 5, 11, 12, 13, 16, 31, 64, 95, 96, 97, 128, 200}) {
    for (int64_t begin : {int64_t{0}, int64_t{7}, 211 - count}) {
      if (begin + count > 211) continue;
      EXPECT_TRUE(
          at::equal(packed_.Apply(rows.narrow(0, begin, count)), all.narrow(0, begin, count)))
          << count << " rows from " << begin;
    }
  }
}

TEST_P(PackedLinearTest, Avx2AndAvx512GiveTheSameBits) {
  if (MachineVectorLevel() != VectorLevel::kAvx512) GTEST_SKIP() << "this machine has no AVX-512";
  const at::Tensor x = at::randn({50, GetParam().in});
  at::Tensor wide = at::empty({50, GetParam().out}), narrow = at::empty({50, GetParam().out});
  packed_.Apply(x, wide, VectorLevel::kAvx512);
  packed_.Apply(x, narrow, VectorLevel::kAvx2);
  EXPECT_TRUE(at::equal(wide, narrow));
}

TEST_P(PackedLinearTest, TheBaselineDiffersByRoundingAlone) {
  const at::Tensor x = at::randn({20, GetParam().in});
  at::Tensor plain = at::empty({20, GetParam().out});
  packed_.Apply(x, plain, VectorLevel::kBaseline);
  EXPECT_LT(plain.sub(packed_.Apply(x)).abs().max().item<double>(), 1e-3);
}

// Whole panels and blocks, edges of both, one column.
INSTANTIATE_TEST_SUITE_P(Shapes, PackedLinearTest,
                         testing::Values(Shape{384, 1536}, Shape{1536, 384}, Shape{48, 8},
                                         Shape{16, 192}, Shape{400, 33}, Shape{7, 1}),
                         [](const auto& row) {
                           return std::to_string(row.param.in) + "to" +
                                  std::to_string(row.param.out);
                         });

TEST(PackedLinear, WithoutRowsOrBias) {
  const at::Tensor weight = at::randn({40, 24});
  const PackedLinear packed(weight, at::Tensor());
  EXPECT_EQ(packed.Apply(at::empty({0, 24})).sizes(), at::IntArrayRef({0, 40}));
  const at::Tensor x = at::randn({4, 24});
  EXPECT_LT(packed.Apply(x).sub(at::linear(x, weight)).abs().max().item<double>(), 1e-4);
}

TEST(PackedLinear, RefusesRowsOfAnotherWidthOrType) {
  const PackedLinear packed(at::randn({40, 24}), at::Tensor());
  EXPECT_THROW(packed.Apply(at::randn({4, 25})), std::invalid_argument);
  EXPECT_THROW(packed.Apply(at::randn({4, 24}).to(at::kDouble)), std::invalid_argument);
  at::Tensor room = at::empty({4, 39});
  EXPECT_THROW(packed.Apply(at::randn({4, 24}), room), std::invalid_argument);
}

TEST(RowFunctions, EqualTheirDefinitions) {
  const at::Tensor x = at::randn({33, 7}).mul(4), wide = x.to(at::kDouble);
  at::Tensor sigmoid = x.clone(), silu = x.clone(), softmax = x.clone();
  SigmoidInPlace(sigmoid);
  SiluInPlace(silu);
  SoftmaxRowsInPlace(softmax);
  const auto error = [](const at::Tensor& got, const at::Tensor& want) {
    return got.to(at::kDouble).sub(want).abs().max().item<double>();
  };
  EXPECT_LT(error(sigmoid, wide.sigmoid()), 3e-7);
  EXPECT_LT(error(silu, wide.mul(wide.sigmoid())), 4e-6);
  EXPECT_LT(error(softmax, at::softmax(wide, -1)), 3e-7);
}

TEST(RowFunctions, ARowsBitsDoNotDependOnItsPlace) {
  const at::Tensor x = at::randn({33, 7}).mul(4);
  at::Tensor all = x.clone();
  SigmoidInPlace(all);
  at::Tensor soft = x.clone();
  SoftmaxRowsInPlace(soft);
  for (int64_t i = 0; i < 33; ++i) {
    at::Tensor row = x.narrow(0, i, 1).clone(), soft_row = row.clone();
    SigmoidInPlace(row);
    SoftmaxRowsInPlace(soft_row);
    EXPECT_TRUE(at::equal(row, all.narrow(0, i, 1))) << i;
    EXPECT_TRUE(at::equal(soft_row, soft.narrow(0, i, 1))) << i;
  }
}

}  // namespace
}  // namespace diffmoe
