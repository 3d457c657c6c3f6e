#include "core/kernels/packed_linear.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/kernels/vector_math.h"

namespace diffmoe {
namespace {

using kernels::Load;
using kernels::Store;
using kernels::Vector;

constexpr int64_t kLanes = kernels::kLanes<float>;
constexpr int64_t kPanel = 2 * kLanes;  // columns
// A panel's part of so many k stays in the first cache while rows pass it; so many rows stay in the
// second while panels pass.
constexpr int64_t kDepthBlock = 384, kRowBlock = 96;

// Rows of x [K each], panels of the weights, bias -> rows of y [N each].
struct Product {
  int64_t rows, in, out;
  const float* x;
  const float* panels;
  const float* bias;
  float* y;
};

// kRows x kVectors registers of y, from k = begin to end; continues what stands in y when begin >
// 0.
template <int64_t kRows, int64_t kVectors>
DIFFMOE_INLINE void Tile(const float* x, int64_t x_row, const float* panel, int64_t begin,
                         int64_t end, const float* bias, float* y, int64_t y_row) {
  Vector<float> sum[kRows][kVectors];
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) {
      sum[i][v] = Load(begin > 0 ? y + i * y_row + v * kLanes : bias + v * kLanes);
    }
  }
  for (int64_t k = begin; k < end; ++k) {
    Vector<float> w[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) w[v] = Load(panel + k * kPanel + v * kLanes);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows; ++i) {
      const float value = x[i * x_row + k];
      for (int64_t v = 0; v < kVectors; ++v) sum[i][v] += value * w[v];
    }
  }
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) Store(y + i * y_row + v * kLanes, sum[i][v]);
  }
}

// All rows of a block against one panel.
template <int64_t kRows, int64_t kVectors>
DIFFMOE_INLINE void Rows(int64_t rows, const float* x, int64_t x_row, const float* panel,
                         int64_t begin, int64_t end, const float* bias, float* y, int64_t y_row) {
  for (int64_t v = 0; v < 2; v += kVectors) {
    const int64_t column = v * kLanes;
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows) {
      Tile<kRows, kVectors>(x + i * x_row, x_row, panel + column, begin, end, bias + column,
                            y + i * y_row + column, y_row);
    }
    for (; i + 4 <= rows; i += 4) {
      Tile<4, kVectors>(x + i * x_row, x_row, panel + column, begin, end, bias + column,
                        y + i * y_row + column, y_row);
    }
    for (; i < rows; ++i) {
      Tile<1, kVectors>(x + i * x_row, x_row, panel + column, begin, end, bias + column,
                        y + i * y_row + column, y_row);
    }
  }
}

template <int64_t kRows, int64_t kVectors>
DIFFMOE_INLINE void Run(const Product& p) {
  const int64_t whole = p.out / kPanel, rest = p.out - whole * kPanel;
  alignas(64) float edge[kRowBlock * kPanel];  // the last panel, when it isn't full
  for (int64_t row = 0; row < p.rows; row += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, p.rows - row);
    for (int64_t begin = 0; begin < p.in; begin += kDepthBlock) {
      const int64_t end = std::min(p.in, begin + kDepthBlock);
      for (int64_t j = 0; j < whole; ++j) {
        Rows<kRows, kVectors>(rows, p.x + row * p.in, p.in, p.panels + j * p.in * kPanel, begin,
                              end, p.bias + j * kPanel, p.y + row * p.out + j * kPanel, p.out);
      }
      if (rest == 0) continue;
      Rows<kRows, kVectors>(rows, p.x + row * p.in, p.in, p.panels + whole * p.in * kPanel, begin,
                            end, p.bias + whole * kPanel, edge, kPanel);
    }
    for (int64_t i = 0; rest > 0 && i < rows; ++i) {
      std::copy_n(edge + i * kPanel, rest, p.y + (row + i) * p.out + whole * kPanel);
    }
  }
}

// As many registers as the set has: 32 of 64 bytes, 16 of 32 bytes.
__attribute__((target("arch=x86-64-v4"))) void RunAvx512(const Product& p) { Run<12, 2>(p); }
__attribute__((target("arch=x86-64-v3"))) void RunAvx2(const Product& p) { Run<6, 1>(p); }
void RunBaseline(const Product& p) { Run<4, 1>(p); }

void CheckRows(const at::Tensor& x, int64_t in) {
  if (x.scalar_type() == at::kFloat && x.is_cpu() && x.dim() > 0 && x.size(-1) == in) return;
  throw std::invalid_argument(absl::StrCat("packed layer: expected rows of ", in,
                                           " fp32 values on the CPU, got ", x.dim(),
                                           " dimensions, the last of ", x.size(-1)));
}

}  // namespace

VectorLevel MachineVectorLevel() {
  static const VectorLevel level = __builtin_cpu_supports("x86-64-v4")   ? VectorLevel::kAvx512
                                   : __builtin_cpu_supports("x86-64-v3") ? VectorLevel::kAvx2
                                                                         : VectorLevel::kBaseline;
  return level;
}

PackedLinear::PackedLinear(const at::Tensor& weight, const at::Tensor& bias)
    : in_(weight.size(1)), out_(weight.size(0)) {
  CheckRows(weight, in_);
  const int64_t panels = (out_ + kPanel - 1) / kPanel;
  panels_ = at::zeros({panels, in_, kPanel}, weight.options());
  bias_ = at::zeros({panels * kPanel}, weight.options());
  const at::Tensor rows = weight.contiguous();
  const float* from = rows.const_data_ptr<float>();
  float* to = panels_.data_ptr<float>();
  for (int64_t n = 0; n < out_; ++n) {
    float* column = to + (n / kPanel) * in_ * kPanel + n % kPanel;
    for (int64_t k = 0; k < in_; ++k) column[k * kPanel] = from[n * in_ + k];
  }
  if (bias.defined()) bias_.narrow(0, 0, out_).copy_(bias);
}

at::Tensor PackedLinear::Apply(const at::Tensor& x) const {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = out_;
  at::Tensor y = at::empty(shape, x.options());
  Apply(x, y);
  return y;
}

void PackedLinear::Apply(const at::Tensor& x, at::Tensor& y) const {
  Apply(x, y, MachineVectorLevel());
}

void PackedLinear::Apply(const at::Tensor& x, at::Tensor& y, VectorLevel level) const {
  CheckRows(x, in_);
  const int64_t rows = x.numel() / std::max<int64_t>(1, in_);
  if (!y.is_contiguous() || y.numel() != rows * out_ || y.scalar_type() != at::kFloat) {
    throw std::invalid_argument(
        absl::StrCat("packed layer: expected room for ", rows, " x ", out_, " fp32 values"));
  }
  const at::Tensor in = x.contiguous();
  const Product product{rows,
                        in_,
                        out_,
                        in.const_data_ptr<float>(),
                        panels_.const_data_ptr<float>(),
                        bias_.const_data_ptr<float>(),
                        y.data_ptr<float>()};
  switch (level) {
    case VectorLevel::kAvx512:
      return RunAvx512(product);
    case VectorLevel::kAvx2:
      return RunAvx2(product);
    case VectorLevel::kBaseline:
      return RunBaseline(product);
  }
}

}  // namespace diffmoe
