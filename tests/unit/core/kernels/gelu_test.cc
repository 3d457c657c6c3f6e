#include "core/kernels/gelu.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/kernels/vector_math.h"

namespace diffmoe {
namespace {

double MaxError(const at::Tensor& got, const at::Tensor& want) {
  return got.to(at::kDouble).sub(want).abs().max().item<double>();
}

TEST(Exp, IsOffByLessThanOneAndAHalfUnitsInTheLastPlace) {
  double worst = 0;
  for (float x = -87.0f; x < 88.0f; x += 0.0137f) {
    const float got = kernels::Exp(kernels::Broadcast(x))[3];
    const double want = std::exp(static_cast<double>(x));
    const double unit = std::ldexp(1.0, static_cast<int>(std::floor(std::log2(want))) - 23);
    worst = std::max(worst, std::abs(got - want) / unit);
  }
  EXPECT_LT(worst, 1.5);
}

TEST(Exp, StaysFiniteAndAboveZeroAtTheEnds) {
  EXPECT_TRUE(std::isfinite(kernels::Exp(kernels::Broadcast(1e30f))[0]));
  EXPECT_GT(kernels::Exp(kernels::Broadcast(-1e30f))[0], 0.0f);
}

TEST(GeluTanh, SinglePrecisionKeepsItsErrorBound) {
  const at::Tensor x = at::linspace(-12, 12, 400'001), wide = x.to(at::kDouble);
  at::Tensor y = at::empty_like(x);
  GeluTanh(x, y);
  const at::Tensor error = y.to(at::kDouble).sub(at::gelu(wide, "tanh")).abs();
  EXPECT_LT(error.div(wide.abs().clamp_min(1e-30)).max().item<double>(), std::ldexp(1.0, -22));
  GeluTanhBackward(at::ones_like(x), x, y);
  const at::Tensor slope = at::gelu_backward(at::ones_like(wide), wide, "tanh");
  EXPECT_LT(MaxError(y, slope), std::ldexp(1.0, -21));
}

TEST(GeluTanh, DoublePrecisionEqualsAten) {
  const at::Tensor x = at::randn({1000}, at::kDouble).mul(4), grad = at::randn({1000}, at::kDouble);
  at::Tensor y = at::empty_like(x);
  GeluTanh(x, y);
  EXPECT_LT(MaxError(y, at::gelu(x, "tanh")), 1e-14);
  GeluTanhBackward(grad, x, y);
  // Both form 1 - tanh^2, which cancels, times factors of up to 16^3.
  EXPECT_LT(MaxError(y, at::gelu_backward(grad, x, "tanh")), 1e-12);
}

TEST(GeluTanh, AnElementsBitsDoNotDependOnItsPlace) {
  const at::Tensor x = at::randn({67}), grad = at::randn({67});
  at::Tensor all = at::empty_like(x), all_back = at::empty_like(x);
  GeluTanh(x, all);
  GeluTanhBackward(grad, x, all_back);
  for (int64_t first = 0; first < 67; ++first) {
    const at::Tensor part = x.narrow(0, first, 67 - first);
    at::Tensor y = at::empty_like(part);
    GeluTanh(part, y);
    EXPECT_TRUE(y.equal(all.narrow(0, first, 67 - first))) << first;
    GeluTanhBackward(grad.narrow(0, first, 67 - first), part, y);
    EXPECT_TRUE(y.equal(all_back.narrow(0, first, 67 - first))) << first;
  }
}

TEST(GeluTanh, InfinitiesAndNotANumberPass) {
  at::Tensor x = at::randn({3});
  x[0] = std::numeric_limits<float>::infinity();
  x[1] = std::nanf("");
  x[2] = -100.0f;
  at::Tensor y = at::empty_like(x);
  GeluTanh(x, y);
  EXPECT_EQ(y[0].item<float>(), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(y[1].item<float>()));
  EXPECT_EQ(y[2].item<float>(), -100.0f / (kernels::Exp(kernels::Broadcast(88.3f))[0] + 1));
}

TEST(GeluTanh, OtherTypesGoToAten) {
  const at::Tensor x = at::randn({40}).to(at::kBFloat16);
  at::Tensor y = at::empty_like(x);
  GeluTanh(x, y);
  EXPECT_TRUE(y.equal(at::gelu(x, "tanh")));
}

TEST(GeluTanh, RefusesTensorsThatDiffer) {
  at::Tensor y = at::randn({4});
  EXPECT_THROW(GeluTanh(at::randn({5}), y), c10::Error);
  EXPECT_THROW(GeluTanh(at::randn({4}, at::kDouble), y), c10::Error);
  EXPECT_THROW(GeluTanhBackward(at::randn({5}), at::randn({4}), y), c10::Error);
}

}  // namespace
}  // namespace diffmoe
