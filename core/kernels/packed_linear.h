// A dense layer at inference on the CPU, y = x W^T + b, in a layout made once from its weights. The
// bits of a row of y depend on that row of x alone: each element is one chain of fused
// multiply-adds in ascending k, starting from the bias, whatever the number of rows, the row's
// place and the width of the machine's registers (AVX2 and AVX-512 give the same bits; without FMA
// they differ).
//
// A library's product may choose its order by the number of rows; that is why this one exists.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

namespace diffmoe {

enum class VectorLevel { kBaseline, kAvx2, kAvx512 };
// The best that this machine has.
VectorLevel MachineVectorLevel();

// Immutable after construction; thread-safe.
class PackedLinear {
 public:
  // weight: [N, K] fp32 on the CPU; bias: [N] fp32, or undefined for zeros. Copies both.
  PackedLinear(const at::Tensor& weight, const at::Tensor& bias);

  // x: [..., K] fp32 -> [..., N].
  at::Tensor Apply(const at::Tensor& x) const;
  // The same into y: [..., N] contiguous.
  void Apply(const at::Tensor& x, at::Tensor& y) const;
  // For tests: by the code for a level that the machine has.
  void Apply(const at::Tensor& x, at::Tensor& y, VectorLevel level) const;

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }

 private:
  int64_t in_, out_;
  at::Tensor panels_;  // [ceil(N / 32), K, 32]: columns side by side, zeros behind the last
  at::Tensor bias_;    // [ceil(N / 32) * 32]
};

}  // namespace diffmoe
