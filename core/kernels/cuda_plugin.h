// The CUDA plugin as a rank sees it: loaded with dlopen, and only by a rank that was given a GPU,
// so that nothing else needs CUDA to be installed. Loading registers the CUDA implementations of
// the project's operators; a loaded plugin stays in the process for good. Thread-safe.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/kernels/cuda_plugin_abi.h"

namespace diffmoe {

struct CudaMemory {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};

// "cuda:3" -> 3. INVALID_ARGUMENT for anything else.
absl::StatusOr<int> ParseCudaDevice(const std::string& device);

// libdiffmoe_cuda.so beside the running program.
std::string DefaultCudaPluginPath();

class CudaPlugin {
 public:
  // FAILED_PRECONDITION: no such file, a library that it needs is missing, or it belongs to another
  // build.
  static absl::StatusOr<std::unique_ptr<CudaPlugin>> Load(
      const std::string& path = DefaultCudaPluginPath());

  // Device of the calling thread from now on. FAILED_PRECONDITION when there is no such device or
  // no driver.
  absl::Status SelectDevice(int device) const;
  absl::StatusOr<CudaMemory> MemoryInfo(int device) const;
  // The NCCL process group of a rank. Blocks until all ranks are there. UNAVAILABLE when that
  // fails.
  absl::StatusOr<c10::intrusive_ptr<c10d::Backend>> MakeNcclGroup(
      const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size, int device,
      std::chrono::milliseconds timeout) const;

 private:
  CudaPlugin() = default;

  DiffmoeCudaSelectDevice* select_device_ = nullptr;
  DiffmoeCudaMemoryInfo* memory_info_ = nullptr;
  DiffmoeCudaMakeNcclGroup* make_nccl_group_ = nullptr;
};

}  // namespace diffmoe
