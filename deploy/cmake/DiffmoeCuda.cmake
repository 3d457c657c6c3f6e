# Looks for what the CUDA plugin needs: nvcc, the NCCL headers, libtorch_cuda. Sets DIFFMOE_CUDA_FOUND, and defines
#   torch_cuda                           LibTorch's CUDA half with its headers
#   diffmoe_cuda_object(FILE.cu OUT)     compiles a .cu file with nvcc; OUT is the object file
# nvcc is called directly: the project's C++ flags (warnings, sanitizers, linker) are not meant for it.
set(DIFFMOE_CUDA_ARCHITECTURES 80 90 CACHE STRING "Compute capabilities that the CUDA plugin is built for")
set(DIFFMOE_CUDA_FOUND FALSE)

find_program(DIFFMOE_NVCC nvcc HINTS /usr/local/cuda/bin $ENV{CUDA_HOME}/bin)
if(NOT DIFFMOE_NVCC)
  message(STATUS "CUDA plugin: not built, nvcc was not found")
  return()
endif()
get_filename_component(DIFFMOE_CUDA_ROOT "${DIFFMOE_NVCC}" REALPATH)
get_filename_component(DIFFMOE_CUDA_ROOT "${DIFFMOE_CUDA_ROOT}" DIRECTORY)
get_filename_component(DIFFMOE_CUDA_ROOT "${DIFFMOE_CUDA_ROOT}" DIRECTORY)
find_path(DIFFMOE_CUDA_INCLUDE cuda_runtime_api.h
  HINTS ${DIFFMOE_CUDA_ROOT}/include ${DIFFMOE_CUDA_ROOT}/targets/x86_64-linux/include)
find_path(DIFFMOE_NCCL_INCLUDE nccl.h HINTS ${DIFFMOE_CUDA_INCLUDE} /usr/local/include)
find_library(DIFFMOE_CUDART cudart HINTS ${DIFFMOE_CUDA_ROOT}/lib64 ${DIFFMOE_CUDA_ROOT}/lib)
foreach(needed DIFFMOE_CUDA_INCLUDE DIFFMOE_NCCL_INCLUDE DIFFMOE_CUDART)
  if(NOT ${needed})
    message(STATUS "CUDA plugin: not built, ${needed} was not found")
    return()
  endif()
endforeach()
if(NOT EXISTS ${DIFFMOE_TORCH_DIR}/lib/libtorch_cuda.so)
  message(STATUS "CUDA plugin: not built, this LibTorch has no libtorch_cuda.so")
  return()
endif()
set(DIFFMOE_CUDA_FOUND TRUE)
message(STATUS "CUDA plugin: built with ${DIFFMOE_NVCC} for ${DIFFMOE_CUDA_ARCHITECTURES}")

add_library(torch_cuda INTERFACE IMPORTED)
target_include_directories(torch_cuda SYSTEM INTERFACE ${DIFFMOE_CUDA_INCLUDE} ${DIFFMOE_NCCL_INCLUDE})
target_compile_definitions(torch_cuda INTERFACE USE_C10D_NCCL)
# What libtorch_cuda needs beyond this comes from wheels that a machine without a GPU doesn't have.
target_link_options(torch_cuda INTERFACE -Wl,--allow-shlib-undefined)
target_link_libraries(torch_cuda INTERFACE torch_cpu
  ${DIFFMOE_TORCH_DIR}/lib/libtorch_cuda.so ${DIFFMOE_TORCH_DIR}/lib/libc10_cuda.so ${DIFFMOE_CUDART})

function(diffmoe_cuda_object file out)
  get_filename_component(name ${file} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.cu.o)
  set(codes "")
  foreach(architecture IN LISTS DIFFMOE_CUDA_ARCHITECTURES)
    list(APPEND codes -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  # The newest architecture also as PTX, for GPUs that came later.
  list(GET DIFFMOE_CUDA_ARCHITECTURES -1 newest)
  list(APPEND codes -gencode arch=compute_${newest},code=compute_${newest})
  add_custom_command(OUTPUT ${object}
    COMMAND ${DIFFMOE_NVCC} -c -O3 -std=c++17 -fmad=false -lineinfo ${codes}
            -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-fvisibility=hidden
            -I${CMAKE_SOURCE_DIR} -MD -MF ${object}.d -MT ${object}
            -o ${object} ${CMAKE_CURRENT_SOURCE_DIR}/${file}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file}
    DEPFILE ${object}.d
    COMMENT "nvcc ${file}" VERBATIM)
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  set(${out} ${object} PARENT_SCOPE)
endfunction()
