// The plugin's C interface: device placement and the NCCL process group.
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "core/kernels/cuda_plugin_abi.h"

#define DIFFMOE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

int Fail(const std::string& message, DiffmoeCudaError* error) {
  const size_t length = std::min(message.size(), sizeof(error->text) - 1);
  std::memcpy(error->text, message.data(), length);
  error->text[length] = '\0';
  return 1;
}

// The reason why `device` can't be used, or an empty string.
std::string WhyUnusable(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (device < 0 || device >= count) {
    return "the machine has " + std::to_string(count) + " CUDA devices";
  }
  return "";
}

}  // namespace

DIFFMOE_EXPORT int diffmoe_cuda_abi_version() { return DIFFMOE_CUDA_ABI_VERSION; }

DIFFMOE_EXPORT int diffmoe_cuda_select_device(int device, DiffmoeCudaError* error) {
  const std::string reason = WhyUnusable(device);
  if (!reason.empty()) return Fail(reason, error);
  try {
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
    // Creates the context now, so that a broken device fails here and not in the first kernel.
    const cudaError_t status = cudaFree(nullptr);
    if (status != cudaSuccess) return Fail(cudaGetErrorString(status), error);
    return 0;
  } catch (const std::exception& exception) {
    return Fail(exception.what(), error);
  }
}

DIFFMOE_EXPORT int diffmoe_cuda_memory_info(int device, DiffmoeCudaMemory* memory,
                                            DiffmoeCudaError* error) {
  const std::string reason = WhyUnusable(device);
  if (!reason.empty()) return Fail(reason, error);
  int previous = 0;
  size_t free_bytes = 0, total_bytes = 0;
  cudaError_t status = cudaGetDevice(&previous);
  if (status == cudaSuccess) status = cudaSetDevice(device);
  if (status == cudaSuccess) status = cudaMemGetInfo(&free_bytes, &total_bytes);
  const cudaError_t restored = cudaSetDevice(previous);
  if (status != cudaSuccess) return Fail(cudaGetErrorString(status), error);
  if (restored != cudaSuccess) return Fail(cudaGetErrorString(restored), error);
  memory->free_bytes = static_cast<int64_t>(free_bytes);
  memory->total_bytes = static_cast<int64_t>(total_bytes);
  return 0;
}

DIFFMOE_EXPORT int diffmoe_cuda_make_nccl_group(const c10::intrusive_ptr<c10d::Store>* store,
                                                int rank, int size, int device, int64_t timeout_ms,
                                                c10::intrusive_ptr<c10d::Backend>* group,
                                                DiffmoeCudaError* error) {
  const std::string reason = WhyUnusable(device);
  if (!reason.empty()) return Fail(reason, error);
  try {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(*store, rank, size, std::move(options));
    // Meets the other ranks now: a collective must never be the first to find out that one is
    // missing.
    nccl->eagerConnectSingleDevice(
        c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)));
    *group = std::move(nccl);
    return 0;
  } catch (const std::exception& exception) {
    return Fail(exception.what(), error);
  }
}
