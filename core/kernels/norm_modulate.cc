#include "core/kernels/norm_modulate.h"

#include <ATen/Dispatch.h>
#include <c10/util/Exception.h>

#include <cmath>

#include "core/kernels/vector_math.h"

namespace diffmoe {
namespace {

using kernels::kLanes;
using kernels::LoadRow;
using kernels::StoreRow;
using kernels::SumLanes;
using kernels::Vector;

struct Shape {
  int64_t batch, tokens, width;
};

// Rows of a [B, D] tensor, `stride` apart.
template <typename Real>
struct Rows {
  const Real* data;
  int64_t stride;
  const Real* at(int64_t i) const { return data + i * stride; }
};

template <typename Real>
DIFFMOE_INLINE Real Sum(const Real* row, int64_t width) {
  Vector<Real> sum{};
  for (int64_t d = 0; d < width; d += kLanes<Real>) sum += LoadRow(row, d, width);
  return SumLanes<Real>(sum);
}

template <typename Real>
DIFFMOE_INLINE Real SumSquaredDistances(const Real* row, int64_t width, Real mean) {
  Vector<Real> sum{};
  for (int64_t d = 0; d < width; d += kLanes<Real>) {
    const Vector<Real> distance = kernels::KeepRow<Real>(LoadRow(row, d, width) - mean, d, width);
    sum += distance * distance;
  }
  return SumLanes<Real>(sum);
}

template <typename Real>
DIFFMOE_INLINE void NormForward(const Shape& shape, const Real* x, const Rows<Real>& shift,
                                const Rows<Real>& scale, Real* out, Real* statistics) {
  const int64_t width = shape.width;
  for (int64_t t = 0; t < shape.batch * shape.tokens; ++t) {
    const int64_t b = t / shape.tokens;
    const Real* row = x + t * width;
    const Real mean = Sum(row, width) / static_cast<Real>(width);
    const Real variance = SumSquaredDistances(row, width, mean) / static_cast<Real>(width);
    const Real inverse = 1 / std::sqrt(variance + static_cast<Real>(1e-6));
    statistics[2 * t] = mean;
    statistics[2 * t + 1] = inverse;
    for (int64_t d = 0; d < width; d += kLanes<Real>) {
      const Vector<Real> normed = (LoadRow(row, d, width) - mean) * inverse;
      const Vector<Real> y =
          normed * (LoadRow(scale.at(b), d, width) + Real{1}) + LoadRow(shift.at(b), d, width);
      StoreRow<Real>(out + t * width, y, d, width);
    }
  }
}

template <typename Real>
DIFFMOE_INLINE void NormBackward(const Shape& shape, const Real* grad, const Real* x,
                                 const Rows<Real>& scale, const Real* statistics, Real* dx,
                                 Real* dshift, Real* dscale) {
  const int64_t width = shape.width;
  for (int64_t t = 0; t < shape.batch * shape.tokens; ++t) {
    const int64_t b = t / shape.tokens;
    const bool first = t % shape.tokens == 0;
    const Real *g = grad + t * width, *row = x + t * width;
    const Real mean = statistics[2 * t], inverse = statistics[2 * t + 1];
    Vector<Real> sum{}, along{};
    for (int64_t d = 0; d < width; d += kLanes<Real>) {
      const Vector<Real> dy = LoadRow(g, d, width);
      const Vector<Real> normed = (LoadRow(row, d, width) - mean) * inverse;
      const Vector<Real> dnormed = dy * (LoadRow(scale.at(b), d, width) + Real{1});
      sum += dnormed;  // lanes behind the row: dy is zero
      along += dnormed * normed;
      const Vector<Real> dscale_row = dy * normed;
      StoreRow<Real>(dshift + b * width, first ? dy : LoadRow(dshift + b * width, d, width) + dy, d,
                     width);
      StoreRow<Real>(dscale + b * width,
                     first ? dscale_row : LoadRow(dscale + b * width, d, width) + dscale_row, d,
                     width);
    }
    const Real mean_of_sum = SumLanes<Real>(sum) / static_cast<Real>(width),
               mean_along = SumLanes<Real>(along) / static_cast<Real>(width);
    for (int64_t d = 0; d < width; d += kLanes<Real>) {
      const Vector<Real> normed = (LoadRow(row, d, width) - mean) * inverse;
      const Vector<Real> dnormed =
          LoadRow(g, d, width) * (LoadRow(scale.at(b), d, width) + Real{1});
      StoreRow<Real>(dx + t * width, (dnormed - mean_of_sum - normed * mean_along) * inverse, d,
                     width);
    }
  }
}

template <typename Real>
DIFFMOE_INLINE void GatedBackward(const Shape& shape, const Real* grad, const Real* y,
                                  const Rows<Real>& gate, Real* dy, Real* dgate) {
  const int64_t width = shape.width;
  for (int64_t t = 0; t < shape.batch * shape.tokens; ++t) {
    const int64_t b = t / shape.tokens;
    const bool first = t % shape.tokens == 0;
    for (int64_t d = 0; d < width; d += kLanes<Real>) {
      const Vector<Real> g = LoadRow(grad + t * width, d, width);
      const Vector<Real> product = g * LoadRow(y + t * width, d, width);
      StoreRow<Real>(dy + t * width, g * LoadRow(gate.at(b), d, width), d, width);
      StoreRow<Real>(dgate + b * width,
                     first ? product : LoadRow(dgate + b * width, d, width) + product, d, width);
    }
  }
}

#define DIFFMOE_NORM_KERNELS(Real)                                                           \
  DIFFMOE_CLONES void RunForward(const Shape& shape, const Real* x, const Rows<Real>& shift, \
                                 const Rows<Real>& scale, Real* out, Real* statistics) {     \
    NormForward(shape, x, shift, scale, out, statistics);                                    \
  }                                                                                          \
  DIFFMOE_CLONES void RunBackward(const Shape& shape, const Real* grad, const Real* x,       \
                                  const Rows<Real>& scale, const Real* statistics, Real* dx, \
                                  Real* dshift, Real* dscale) {                              \
    NormBackward(shape, grad, x, scale, statistics, dx, dshift, dscale);                     \
  }                                                                                          \
  DIFFMOE_CLONES void RunGated(const Shape& shape, const Real* grad, const Real* y,          \
                               const Rows<Real>& gate, Real* dy, Real* dgate) {              \
    GatedBackward(shape, grad, y, gate, dy, dgate);                                          \
  }

DIFFMOE_NORM_KERNELS(float)
DIFFMOE_NORM_KERNELS(double)

Shape CheckedShape(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 3 && x.is_contiguous() && x.is_cpu(),
              "modulation: expected a contiguous CPU tensor [B, S, D], got ", x.sizes());
  return {x.size(0), x.size(1), x.size(2)};
}

template <typename Real>
Rows<Real> RowsOf(const at::Tensor& tensor, const Shape& shape) {
  TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == shape.batch && tensor.size(1) == shape.width &&
                  tensor.stride(1) == 1,
              "modulation: expected [", shape.batch, ", ", shape.width,
              "] with contiguous rows, got ", tensor.sizes(), " with strides ", tensor.strides());
  return {tensor.const_data_ptr<Real>(), tensor.stride(0)};
}

void CheckLike(const at::Tensor& tensor, const at::Tensor& x) {
  TORCH_CHECK(tensor.sizes() == x.sizes() && tensor.is_contiguous(),
              "modulation: expected a contiguous tensor ", x.sizes(), ", got ", tensor.sizes());
}

// Memory of a result of `elements` elements.
template <typename Real>
Real* Result(at::Tensor& tensor, int64_t elements) {
  TORCH_CHECK(tensor.is_contiguous() && tensor.numel() == elements,
              "modulation: expected room for ", elements, " elements, got ", tensor.sizes());
  return tensor.mutable_data_ptr<Real>();
}

}  // namespace

void NormModulateForward(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale,
                         at::Tensor& out, at::Tensor& statistics) {
  const Shape shape = CheckedShape(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "norm_modulate", [&] {
    RunForward(shape, x.const_data_ptr<scalar_t>(), RowsOf<scalar_t>(shift, shape),
               RowsOf<scalar_t>(scale, shape), Result<scalar_t>(out, x.numel()),
               Result<scalar_t>(statistics, 2 * shape.batch * shape.tokens));
  });
}

void NormModulateBackward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& scale,
                          const at::Tensor& statistics, at::Tensor& dx, at::Tensor& dshift,
                          at::Tensor& dscale) {
  const Shape shape = CheckedShape(x);
  CheckLike(grad, x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "norm_modulate_backward", [&] {
    RunBackward(shape, grad.const_data_ptr<scalar_t>(), x.const_data_ptr<scalar_t>(),
                RowsOf<scalar_t>(scale, shape), statistics.const_data_ptr<scalar_t>(),
                Result<scalar_t>(dx, x.numel()),
                Result<scalar_t>(dshift, shape.batch * shape.width),
                Result<scalar_t>(dscale, shape.batch * shape.width));
  });
}

void AddGatedBackward(const at::Tensor& grad, const at::Tensor& y, const at::Tensor& gate,
                      at::Tensor& dy, at::Tensor& dgate) {
  const Shape shape = CheckedShape(grad);
  CheckLike(y, grad);
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "add_gated_backward", [&] {
    RunGated(shape, grad.const_data_ptr<scalar_t>(), y.const_data_ptr<scalar_t>(),
             RowsOf<scalar_t>(gate, shape), Result<scalar_t>(dy, grad.numel()),
             Result<scalar_t>(dgate, shape.batch * shape.width));
  });
}

}  // namespace diffmoe
