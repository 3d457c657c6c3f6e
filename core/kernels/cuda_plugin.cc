#include "core/kernels/cuda_plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace diffmoe {
namespace {

constexpr char kPluginName[] = "libdiffmoe_cuda.so";

// The function of that name, or nullptr.
template <typename Function>
Function* Find(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

}  // namespace

absl::StatusOr<int> ParseCudaDevice(const std::string& device) {
  absl::string_view number = device;
  int index = -1;
  if (!absl::ConsumePrefix(&number, "cuda:") || number.empty() || number.size() > 4 ||
      number.find_first_not_of("0123456789") != absl::string_view::npos ||
      !absl::SimpleAtoi(number, &index)) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is '", device, "', expected cuda:N with N from 0 to 9999"));
  }
  return index;
}

std::string DefaultCudaPluginPath() {
  char path[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || length == static_cast<ssize_t>(sizeof(path))) return kPluginName;
  const std::string program(path, static_cast<size_t>(length));
  return absl::StrCat(program.substr(0, program.rfind('/') + 1), kPluginName);
}

absl::StatusOr<std::unique_ptr<CudaPlugin>> CudaPlugin::Load(const std::string& path) {
  if (::access(path.c_str(), R_OK) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the CUDA plugin is not at ", path,
                     "; it is built where nvcc and the NCCL headers are installed"));
  }
  // Never unloaded: the dispatcher keeps pointers into it.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot load the CUDA plugin: ", ::dlerror()));
  }
  auto* const version = Find<DiffmoeCudaAbiVersion>(library, "diffmoe_cuda_abi_version");
  std::unique_ptr<CudaPlugin> plugin(new CudaPlugin);
  plugin->select_device_ = Find<DiffmoeCudaSelectDevice>(library, "diffmoe_cuda_select_device");
  plugin->memory_info_ = Find<DiffmoeCudaMemoryInfo>(library, "diffmoe_cuda_memory_info");
  plugin->make_nccl_group_ =
      Find<DiffmoeCudaMakeNcclGroup>(library, "diffmoe_cuda_make_nccl_group");
  if (version == nullptr || version() != DIFFMOE_CUDA_ABI_VERSION ||
      plugin->select_device_ == nullptr || plugin->memory_info_ == nullptr ||
      plugin->make_nccl_group_ == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " has plugin interface ", version == nullptr ? 0 : version(),
                     ", expected ", DIFFMOE_CUDA_ABI_VERSION, "; build both from one tree"));
  }
  return plugin;
}

absl::Status CudaPlugin::SelectDevice(int device) const {
  DiffmoeCudaError error = {};
  if (select_device_(device, &error) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("cannot use cuda:", device, ": ", error.text));
}

absl::StatusOr<CudaMemory> CudaPlugin::MemoryInfo(int device) const {
  DiffmoeCudaError error = {};
  DiffmoeCudaMemory memory = {};
  if (memory_info_(device, &memory, &error) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read the memory of cuda:", device, ": ", error.text));
  }
  return CudaMemory{memory.free_bytes, memory.total_bytes};
}

absl::StatusOr<c10::intrusive_ptr<c10d::Backend>> CudaPlugin::MakeNcclGroup(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size, int device,
    std::chrono::milliseconds timeout) const {
  if (world_size < 1 || rank < 0 || rank >= world_size || timeout.count() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " of ", world_size,
                                                   " with a timeout of ", timeout.count(), " ms"));
  }
  DiffmoeCudaError error = {};
  c10::intrusive_ptr<c10d::Backend> group;
  if (make_nccl_group_(&store, rank, world_size, device, timeout.count(), &group, &error) != 0) {
    return absl::UnavailableError(absl::StrCat("rank ", rank, " of ", world_size,
                                               " cannot join the NCCL group on cuda:", device, ": ",
                                               error.text));
  }
  return group;
}

}  // namespace diffmoe
