# The CUDA kernels, src/ops/*/*_cuda.cu: framework-free, compiled wherever there is an nvcc, with or without a GPU and
# whatever libtorch the build has. The operator library uses them where libtorch has CUDA too.
include(CheckLanguage)
check_language(CUDA)
set(found OFF)
if(CMAKE_CUDA_COMPILER)
  find_package(CUDAToolkit QUIET)
  if(TARGET CUDA::cublasLt)
    set(found ON)
  endif()
endif()
option(MEGALODON_CUDA "compile the CUDA kernels: needs nvcc and cuBLAS" ${found})
if(NOT MEGALODON_CUDA)
  return()
endif()

# A100 and H100, and as PTX what comes after them. "native" is the GPU of this machine alone, and quicker to compile
# (CMake 3.24 and later).
set(MEGALODON_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "GPUs to compile kernels for, as CMake names them")
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # the one that libtorch uses
if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80)  # of CMake's own trial programs
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

set(ops ${PROJECT_SOURCE_DIR}/src/ops)
file(GLOB kernels CONFIGURE_DEPENDS ${ops}/*/*_cuda.cu)
add_library(megalodon_kernels_cuda STATIC ${kernels})
set_target_properties(megalodon_kernels_cuda PROPERTIES
  CUDA_STANDARD 17  # CMake 3.25 knows none above it
  CUDA_ARCHITECTURES "${MEGALODON_CUDA_ARCHITECTURES}")
target_include_directories(megalodon_kernels_cuda PUBLIC ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(megalodon_kernels_cuda PUBLIC CUDA::cudart CUDA::cublasLt)
# Constexpr functions of base/ run on the device as they are.
target_compile_options(megalodon_kernels_cuda PRIVATE --expt-relaxed-constexpr -Xcompiler=-fPIC,-Wall)

# Against the CPU kernels, without libtorch; each test passes over where there is no GPU. (tests/cuda_emulator runs them
# on the CPU.)
file(GLOB tests CONFIGURE_DEPENDS ${ops}/*/*_cuda_test.cc)
if(tests)
  add_executable(cuda_kernel_test ${tests})
  target_link_libraries(cuda_kernel_test PRIVATE megalodon_kernels_cuda megalodon_kernels GTest::gtest_main)
  megalodon_compile_quickly(cuda_kernel_test -Og)
  set_target_properties(cuda_kernel_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME cuda_kernel_test COMMAND cuda_kernel_test)
  set_tests_properties(cuda_kernel_test PROPERTIES LABELS gpu SKIP_REGULAR_EXPRESSION "PASSED  \\] 0 tests")
endif()
