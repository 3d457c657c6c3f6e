// What libdiffmoe_cuda.so exports. Both sides are built from one tree against one LibTorch; the
// version guards against a plugin left over from another build. Every function returns 0, or 1 with
// a message in `error`; none lets an exception out.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <cstddef>
#include <cstdint>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

#define DIFFMOE_CUDA_ABI_VERSION 1

extern "C" {

struct DiffmoeCudaError {
  char text[512];
};

struct DiffmoeCudaMemory {
  int64_t free_bytes;
  int64_t total_bytes;
};

typedef int DiffmoeCudaAbiVersion();
// Makes `device` the current one of the calling thread and creates its context.
typedef int DiffmoeCudaSelectDevice(int device, DiffmoeCudaError* error);
typedef int DiffmoeCudaMemoryInfo(int device, DiffmoeCudaMemory* memory, DiffmoeCudaError* error);
// Blocks until all `size` ranks have joined. The timeout holds for the meeting and for every
// collective.
typedef int DiffmoeCudaMakeNcclGroup(const c10::intrusive_ptr<c10d::Store>* store, int rank,
                                     int size, int device, int64_t timeout_ms,
                                     c10::intrusive_ptr<c10d::Backend>* group,
                                     DiffmoeCudaError* error);

}  // extern "C"
