#include "core/kernels/gelu.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <numbers>

#include "core/kernels/vector_math.h"

namespace diffmoe {
namespace {

using kernels::Exp;
using kernels::kLanes;
using kernels::LoadRow;
using kernels::StoreRow;
using kernels::Vector;

constexpr double kSlope = 2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // 2 sqrt(2 / pi)
constexpr double kCubic = 0.044715;

// With z = 2 sqrt(2 / pi) (x + 0.044715 x^3): GELU = x / (1 + e^-z), which loses nothing to
// cancellation where x is negative.
DIFFMOE_INLINE Vector<float> NegativeExponent(const Vector<float>& x) {
  const Vector<float> square = x * x;
  return x * (square * static_cast<float>(-kSlope * kCubic) - static_cast<float>(kSlope));
}

DIFFMOE_INLINE Vector<float> Gelu(const Vector<float>& x) {
  return x / (Exp(NegativeExponent(x)) + 1.0f);
}

DIFFMOE_INLINE Vector<float> GeluSlope(const Vector<float>& x) {
  const Vector<float> e = Exp(NegativeExponent(x));
  const Vector<float> sigmoid = 1.0f / (e + 1.0f);
  const Vector<float> dz =
      x * x * static_cast<float>(3 * kSlope * kCubic) + static_cast<float>(kSlope);
  // sigmoid * (1 - sigmoid), without cancellation or overflow.
  return sigmoid + x * dz * (sigmoid * (sigmoid * e));
}

DIFFMOE_CLONES void GeluFloat(const float* in, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    StoreRow<float>(out, Gelu(LoadRow(in, i, count)), i, count);
  }
}

DIFFMOE_CLONES void GeluBackwardFloat(const float* grad, const float* in, float* out,
                                      int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    StoreRow<float>(out, LoadRow(grad, i, count) * GeluSlope(LoadRow(in, i, count)), i, count);
  }
}

void GeluDouble(const double* in, double* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double x = in[i];
    out[i] = 0.5 * x * (1 + std::tanh(0.5 * kSlope * (x + kCubic * x * x * x)));
  }
}

void GeluBackwardDouble(const double* grad, const double* in, double* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double x = in[i], t = std::tanh(0.5 * kSlope * (x + kCubic * x * x * x));
    const double dt = (1 - t * t) * 0.5 * kSlope * (1 + 3 * kCubic * x * x);
    out[i] = grad[i] * (0.5 * (1 + t) + 0.5 * x * dt);
  }
}

void Check(const at::Tensor& a, const at::Tensor& b, const char* what) {
  TORCH_CHECK(a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type(), what, ": shapes ",
              a.sizes(), " ", a.scalar_type(), " and ", b.sizes(), " ", b.scalar_type(),
              " must be equal");
  TORCH_CHECK(a.is_contiguous() && b.is_contiguous(), what, ": tensors must be contiguous");
}

bool Native(const at::Tensor& tensor) {
  return tensor.is_cpu() &&
         (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble);
}

}  // namespace

void GeluTanh(const at::Tensor& in, at::Tensor& out) {
  if (!Native(in)) {
    at::gelu_out(out, in, "tanh");
    return;
  }
  Check(in, out, "gelu");
  if (in.scalar_type() == at::kFloat) {
    GeluFloat(in.const_data_ptr<float>(), out.mutable_data_ptr<float>(), in.numel());
  } else {
    GeluDouble(in.const_data_ptr<double>(), out.mutable_data_ptr<double>(), in.numel());
  }
}

void GeluTanhBackward(const at::Tensor& grad, const at::Tensor& in, at::Tensor& out) {
  if (!Native(in)) {
    at::gelu_backward_out(out, grad, in, "tanh");
    return;
  }
  Check(grad, in, "gelu backward");
  Check(in, out, "gelu backward");
  if (in.scalar_type() == at::kFloat) {
    GeluBackwardFloat(grad.const_data_ptr<float>(), in.const_data_ptr<float>(),
                      out.mutable_data_ptr<float>(), in.numel());
  } else {
    GeluBackwardDouble(grad.const_data_ptr<double>(), in.const_data_ptr<double>(),
                       out.mutable_data_ptr<double>(), in.numel());
  }
}

}  // namespace diffmoe
