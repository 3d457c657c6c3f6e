// Launchers of the permute kernels. No torch here: the .cu file is compiled by nvcc alone.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace diffmoe {

// Rows of `row_bytes` bytes: out[k] = in[ids[k]]. An id outside [0, row_count) stops the device
// (assert).
cudaError_t LaunchGatherRows(const void* in, int64_t row_count, const int64_t* ids, int64_t count,
                             int64_t row_bytes, void* out, cudaStream_t stream);

// out[t] = sum over e, ascending, of weights[t, e] * rows[index[t, e]], -1 skipped; weights may be
// null (1).
template <typename Real>
cudaError_t LaunchCombineRows(const Real* rows, int64_t row_count, const int32_t* index,
                              const Real* weights, int64_t tokens, int64_t experts, int64_t width,
                              Real* out, cudaStream_t stream);

}  // namespace diffmoe
