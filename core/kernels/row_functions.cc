#include "core/kernels/row_functions.h"

#include <algorithm>
#include <limits>

#include "core/kernels/vector_math.h"

namespace diffmoe {
namespace {

using kernels::Exp;
using kernels::kLanes;
using kernels::LoadRow;
using kernels::StoreRow;
using kernels::Vector;

DIFFMOE_CLONES void Sigmoid(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    const Vector<float> v = LoadRow(x, i, count);
    StoreRow<float>(x, 1.0f / (Exp(-v) + 1.0f), i, count);
  }
}

DIFFMOE_CLONES void Silu(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    const Vector<float> v = LoadRow(x, i, count);
    StoreRow<float>(x, v / (Exp(-v) + 1.0f), i, count);
  }
}

DIFFMOE_CLONES void Softmax(float* x, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x + r * width;
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t e = 0; e < width; ++e) largest = std::max(largest, row[e]);
    for (int64_t e = 0; e < width; e += kLanes<float>) {
      StoreRow<float>(row, Exp(LoadRow(row, e, width) - largest), e, width);
    }
    float sum = 0;
    for (int64_t e = 0; e < width; ++e) sum += row[e];
    for (int64_t e = 0; e < width; ++e) row[e] /= sum;
  }
}

}  // namespace

void SigmoidInPlace(at::Tensor& x) { Sigmoid(x.data_ptr<float>(), x.numel()); }
void SiluInPlace(at::Tensor& x) { Silu(x.data_ptr<float>(), x.numel()); }
void SoftmaxRowsInPlace(at::Tensor& x) { Softmax(x.data_ptr<float>(), x.size(0), x.size(1)); }

}  // namespace diffmoe
