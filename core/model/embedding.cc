#include "core/model/embedding.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/model/position_table.h"

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
  const std::vector<double> values = PositionValues(side, width);
  at::Tensor table = at::empty({side * side, width}, at::TensorOptions().dtype(at::kDouble));
  std::copy(values.begin(), values.end(), table.data_ptr<double>());
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
