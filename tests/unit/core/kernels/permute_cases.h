// Inputs of the permute operators, shared by the CPU and the GPU tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace diffmoe {

struct PermuteCase {
  at::Tensor tokens;   // [T, D]
  at::Tensor ids;      // [K] int64, ascending within an expert
  at::Tensor index;    // [T, E] int32
  at::Tensor weights;  // [T, E]
};

// Each expert takes each token with probability one half; T tokens, E experts, width D.
PermuteCase MakePermuteCase(int64_t tokens, int64_t experts, int64_t width, at::ScalarType dtype,
                            uint64_t seed);

// True when both have the same shape, dtype and bits.
bool SameBits(const at::Tensor& a, const at::Tensor& b);

}  // namespace diffmoe
