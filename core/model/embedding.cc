#include "core/model/embedding.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/zeros.h>

#include <cmath>

namespace diffmoe {

at::Tensor TimeSinusoid(const at::Tensor& t, int64_t dim) {
  const int64_t half = dim / 2;
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const at::Tensor frequencies =
      at::exp(at::arange(half, options).mul(-std::log(10000.0)).div(static_cast<double>(half)));
  const at::Tensor angles = t.to(at::kFloat).unsqueeze(1).mul(frequencies.unsqueeze(0));
  at::Tensor out = at::cat({at::cos(angles), at::sin(angles)}, 1);
  if (dim % 2 != 0) out = at::cat({out, at::zeros({t.size(0), 1}, options)}, 1);
  return out;
}

at::Tensor PositionTable(int64_t side, int64_t width) {
  at::Tensor table = at::empty({side * side, width}, at::TensorOptions().dtype(at::kDouble));
  double* out = table.data_ptr<double>();
  const int64_t quarter = width / 4;
  for (int64_t row = 0; row < side; ++row) {
    for (int64_t column = 0; column < side; ++column) {
      double* token = out + (row * side + column) * width;
      for (int64_t i = 0; i < quarter; ++i) {
        const double omega =
            std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(quarter));
        token[i] = std::sin(static_cast<double>(column) * omega);
        token[quarter + i] = std::cos(static_cast<double>(column) * omega);
        token[2 * quarter + i] = std::sin(static_cast<double>(row) * omega);
        token[3 * quarter + i] = std::cos(static_cast<double>(row) * omega);
      }
    }
  }
  return table;
}

at::Tensor Patchify(const at::Tensor& images, int64_t patch) {
  const int64_t batch = images.size(0), channels = images.size(1), side = images.size(2) / patch;
  return images.reshape({batch, channels, side, patch, side, patch})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({batch, side * side, channels * patch * patch});
}

at::Tensor Unpatchify(const at::Tensor& tokens, int64_t patch, int64_t channels) {
  const int64_t batch = tokens.size(0);
  const int64_t side =
      static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(tokens.size(1)))));
  return tokens.reshape({batch, side, side, patch, patch, channels})
      .permute({0, 5, 1, 3, 2, 4})
      .reshape({batch, channels, side * patch, side * patch});
}

}  // namespace diffmoe
