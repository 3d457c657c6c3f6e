# torch_cpu: LibTorch from the PyPI wheel. Only targets of the Torch tier link it.
set(DIFFMOE_TORCH_DIR ${DIFFMOE_DEPS_DIR}/torch-2.11.0/torch)
set(DIFFMOE_CUDA_RUNTIME_DIR ${DIFFMOE_DEPS_DIR}/torch-2.11.0/nvidia)
if(NOT EXISTS ${DIFFMOE_TORCH_DIR}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch is not at ${DIFFMOE_TORCH_DIR}: run ./run setup")
endif()
# Folders of the two CUDA libraries that libtorch_cpu.so needs, inside the wheels.
find_path(DIFFMOE_CUDART_DIR libcudart.so.13 PATHS ${DIFFMOE_CUDA_RUNTIME_DIR}
  PATH_SUFFIXES cu13/lib cuda_runtime/lib NO_DEFAULT_PATH REQUIRED)
find_path(DIFFMOE_CUPTI_DIR libcupti.so.13 PATHS ${DIFFMOE_CUDA_RUNTIME_DIR}
  PATH_SUFFIXES cu13/lib cuda_cupti/lib NO_DEFAULT_PATH REQUIRED)

add_library(torch_cpu INTERFACE IMPORTED GLOBAL)
target_include_directories(torch_cpu SYSTEM INTERFACE
  ${DIFFMOE_TORCH_DIR}/include ${DIFFMOE_TORCH_DIR}/include/torch/csrc/api/include)
target_compile_definitions(torch_cpu INTERFACE USE_DISTRIBUTED USE_C10D USE_C10D_GLOO)
target_link_libraries(torch_cpu INTERFACE
  ${DIFFMOE_TORCH_DIR}/lib/libtorch_cpu.so ${DIFFMOE_TORCH_DIR}/lib/libc10.so)
target_link_options(torch_cpu INTERFACE
  -Wl,-rpath,${DIFFMOE_TORCH_DIR}/lib -Wl,-rpath,${DIFFMOE_CUDART_DIR} -Wl,-rpath,${DIFFMOE_CUPTI_DIR}
  -Wl,-rpath-link,${DIFFMOE_CUDART_DIR}:${DIFFMOE_CUPTI_DIR})
