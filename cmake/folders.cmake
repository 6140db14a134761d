# A library and a test program for each folder of src/, or for several together. Files are globbed: a new source, op or
# test needs no edit here.

# megalodon_sources(<list> <pattern>...): the sources that match, without tests and benchmarks.
function(megalodon_sources list)
  file(GLOB found CONFIGURE_DEPENDS ${ARGN})
  list(FILTER found EXCLUDE REGEX "_(test|bench)\\.cc$")
  set(${list} ${found} PARENT_SCOPE)
endfunction()

# What a file includes takes most of its time to compile, and torch's headers leave ten thousand templates to instantiate,
# precompiled or not: a target's files are compiled as one, and names in their anonymous namespaces must differ. And what is
# not where time goes is optimized no more than it needs: the later -O wins.
function(megalodon_compile_quickly target optimization)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:${optimization}>)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${MEGALODON_UNITY} UNITY_BUILD_BATCH_SIZE 0)
endfunction()

# megalodon_tests(<name> [TORCH] LABEL <label> SOURCES <file>... DEPS <library>...)
function(megalodon_tests name)
  cmake_parse_arguments(arg "TORCH" "LABEL" "SOURCES;DEPS" ${ARGN})
  if(NOT arg_SOURCES)
    return()
  endif()
  add_executable(${name} ${arg_SOURCES})
  # The support library takes system calls over only in the programs that use it.
  target_link_libraries(${name} PRIVATE megalodon_test_support ${arg_DEPS} GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE MEGALODON_TESTS_DIR="${PROJECT_SOURCE_DIR}/tests")
  megalodon_compile_quickly(${name} -Og)
  if(arg_TORCH)
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/torch_setup.cc)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(arg_TORCH)
    # As one: libtorch takes 0.7 s to start, most tests a few milliseconds.
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} COST $<IF:$<STREQUAL:${arg_LABEL},slow>,100,10>)
  else()
    gtest_discover_tests(${name} PROPERTIES LABELS ${arg_LABEL} DISCOVERY_TIMEOUT 120)
  endif()
endfunction()

# megalodon_library(<name> [TORCH] [FOLDERS <folder>...] DEPS <library>...): src/<folder>/*.cc as megalodon_<name>, their
# tests as <name>_test; of the folder <name> where none are given.
function(megalodon_library library)
  cmake_parse_arguments(arg "TORCH" "" "FOLDERS;DEPS" ${ARGN})
  if(NOT arg_FOLDERS)
    set(arg_FOLDERS ${library})
  endif()
  set(name megalodon_${library})
  list(TRANSFORM arg_FOLDERS REPLACE "(.+)" "${PROJECT_SOURCE_DIR}/src/\\1/*.cc" OUTPUT_VARIABLE files)
  list(TRANSFORM arg_FOLDERS REPLACE "(.+)" "${PROJECT_SOURCE_DIR}/src/\\1/*_test.cc" OUTPUT_VARIABLE tests)
  megalodon_sources(sources ${files})
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PUBLIC ${arg_DEPS})
  if(arg_TORCH)
    set(torch TORCH)
    megalodon_compile_quickly(${name} -O1)  # the kernels do the work
  else()
    megalodon_compile_quickly(${name} -O2)
  endif()
  file(GLOB tests CONFIGURE_DEPENDS ${tests})
  megalodon_tests(${library}_test ${torch} LABEL unit SOURCES ${tests} DEPS ${name})
endfunction()

# The CPU kernels: no torch include path, so that a stray include does not compile.
function(megalodon_kernels)
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/*/*_cpu.cc)
  add_library(megalodon_kernels STATIC ${kernels})
  target_include_directories(megalodon_kernels PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(megalodon_kernels PUBLIC PkgConfig::HWY OpenMP::OpenMP_CXX)
  target_compile_options(megalodon_kernels PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O3>)
  # Multiplications and additions are fused where the code says so, and nowhere else: vectors and what is left over after
  # them round alike, on every processor.
  target_compile_options(megalodon_kernels PRIVATE -ffp-contract=off)
  # On x86 baseline, AVX2 and AVX-512: every target more costs every build, and few processors of the last ten years are
  # between. On Arm and RISC-V no vectors whose size is known only at run time, which cannot be kept in arrays.
  target_compile_definitions(megalodon_kernels PRIVATE
    "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128|HWY_RVV)")
  if(MEGALODON_FUZZ)
    target_compile_definitions(megalodon_kernels PRIVATE HWY_COMPILE_ONLY_STATIC)  # what reads files is fuzzed, not these
  endif()
endfunction()

# The operator library around the kernels, and its tests.
function(megalodon_operators)
  set(ops ${PROJECT_SOURCE_DIR}/src/ops)
  megalodon_sources(glue ${ops}/*.cc ${ops}/*/*.cc)
  # Products by oneDNN where the build found it, by the tensor library otherwise.
  if(TARGET megalodon_onednn)
    set(other torch)
    set(products megalodon_onednn)
  else()
    set(other onednn)
  endif()
  # CUDA kernels where there are both nvcc and a libtorch with CUDA.
  if(TARGET megalodon_kernels_cuda AND TARGET torch_cuda)
    set(cuda 1)
    list(APPEND products megalodon_kernels_cuda)
  else()
    set(cuda 0)
    set(other "${other}|cuda")
  endif()
  list(FILTER glue EXCLUDE REGEX "(_cpu|/bench|matrix_product_(${other}))\\.cc$")
  add_library(megalodon_ops SHARED ${glue})
  target_link_libraries(megalodon_ops PUBLIC megalodon_base megalodon_torch PRIVATE megalodon_kernels ${products})
  target_compile_definitions(megalodon_ops PRIVATE MEGALODON_ONEDNN=$<TARGET_EXISTS:megalodon_onednn>
    MEGALODON_CUDA=${cuda})
  target_include_directories(megalodon_ops PUBLIC ${PROJECT_SOURCE_DIR}/src)
  megalodon_compile_quickly(megalodon_ops -O1)

  file(GLOB tests CONFIGURE_DEPENDS ${ops}/*_test.cc ${ops}/*/*_test.cc)
  list(FILTER tests EXCLUDE REGEX "_cuda_test\\.cc$")
  megalodon_tests(ops_test TORCH LABEL unit SOURCES ${tests} DEPS megalodon_ops megalodon_kernels)
endfunction()

# build/<preset>/megalodon, with the benchmark cases of the operators.
function(megalodon_program)
  megalodon_sources(sources ${PROJECT_SOURCE_DIR}/src/apps/*.cc)
  file(GLOB benches CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/bench.cc ${PROJECT_SOURCE_DIR}/src/ops/*/*_bench.cc)
  add_executable(megalodon ${sources} ${benches})
  target_link_libraries(megalodon PRIVATE megalodon_train megalodon_report CLI11::CLI11)
  target_compile_definitions(megalodon PRIVATE MEGALODON_VERSION="${PROJECT_VERSION}")
  megalodon_compile_quickly(megalodon -Og)
endfunction()
