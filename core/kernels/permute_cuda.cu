#include <cassert>

#include "core/kernels/permute_cuda.h"

namespace diffmoe {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = 1 << 20;  // larger problems loop

int64_t Blocks(int64_t items, int64_t items_per_block) {
  const int64_t blocks = (items + items_per_block - 1) / items_per_block;
  return blocks < kMaxBlocks ? blocks : kMaxBlocks;
}

// One warp per row, copied in words of the widest type that divides it.
template <typename Word>
__global__ void GatherRows(const Word* __restrict__ in, int64_t row_count,
                           const int64_t* __restrict__ ids, int64_t count, int64_t row_words,
                           Word* __restrict__ out) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const int lane = threadIdx.x % kWarp;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
       k < count; k += warps) {
    const int64_t id = ids[k];
    assert(id >= 0 && id < row_count);
    const Word* source = in + id * row_words;
    Word* target = out + k * row_words;
    for (int64_t word = lane; word < row_words; word += kWarp) target[word] = source[word];
  }
}

// One block per token; a thread owns whole columns, so that each sum is made by one thread in
// ascending expert order. Products are rounded before they are added (no fused multiply-add): the
// bits of the CPU implementation.
__device__ inline float AddProduct(float sum, float a, float b) {
  return __fadd_rn(sum, __fmul_rn(a, b));
}
__device__ inline double AddProduct(double sum, double a, double b) {
  return __dadd_rn(sum, __dmul_rn(a, b));
}

template <typename Real>
__global__ void CombineRows(const Real* __restrict__ rows, int64_t row_count,
                            const int32_t* __restrict__ index, const Real* __restrict__ weights,
                            int64_t tokens, int64_t experts, int64_t width,
                            Real* __restrict__ out) {
  for (int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    for (int64_t d = threadIdx.x; d < width; d += kThreads) {
      Real sum = 0;
      for (int64_t e = 0; e < experts; ++e) {
        const int64_t row = index[t * experts + e];
        if (row < 0) continue;
        assert(row < row_count);
        const Real weight = weights == nullptr ? Real{1} : weights[t * experts + e];
        sum = AddProduct(sum, weight, rows[row * width + d]);
      }
      out[t * width + d] = sum;
    }
  }
}

template <typename Word>
cudaError_t Gather(const void* in, int64_t row_count, const int64_t* ids, int64_t count,
                   int64_t row_bytes, void* out, cudaStream_t stream) {
  GatherRows<Word><<<Blocks(count, kThreads / kWarp), kThreads, 0, stream>>>(
      static_cast<const Word*>(in), row_count, ids, count,
      row_bytes / static_cast<int64_t>(sizeof(Word)), static_cast<Word*>(out));
  return cudaGetLastError();
}

bool Aligned(const void* in, const void* out, int64_t row_bytes, int64_t bytes) {
  return row_bytes % bytes == 0 && reinterpret_cast<uintptr_t>(in) % bytes == 0 &&
         reinterpret_cast<uintptr_t>(out) % bytes == 0;
}

}  // namespace

cudaError_t LaunchGatherRows(const void* in, int64_t row_count, const int64_t* ids, int64_t count,
                             int64_t row_bytes, void* out, cudaStream_t stream) {
  if (count == 0 || row_bytes == 0) return cudaSuccess;
  if (Aligned(in, out, row_bytes, 16)) {
    return Gather<uint4>(in, row_count, ids, count, row_bytes, out, stream);
  }
  if (Aligned(in, out, row_bytes, 4)) {
    return Gather<uint32_t>(in, row_count, ids, count, row_bytes, out, stream);
  }
  return Gather<uint8_t>(in, row_count, ids, count, row_bytes, out, stream);
}

template <typename Real>
cudaError_t LaunchCombineRows(const Real* rows, int64_t row_count, const int32_t* index,
                              const Real* weights, int64_t tokens, int64_t experts, int64_t width,
                              Real* out, cudaStream_t stream) {
  if (tokens == 0 || width == 0) return cudaSuccess;
  CombineRows<Real><<<Blocks(tokens, 1), kThreads, 0, stream>>>(rows, row_count, index, weights,
                                                                tokens, experts, width, out);
  return cudaGetLastError();
}

template cudaError_t LaunchCombineRows<float>(const float*, int64_t, const int32_t*, const float*,
                                              int64_t, int64_t, int64_t, float*, cudaStream_t);
template cudaError_t LaunchCombineRows<double>(const double*, int64_t, const int32_t*,
                                               const double*, int64_t, int64_t, int64_t, double*,
                                               cudaStream_t);

}  // namespace diffmoe
