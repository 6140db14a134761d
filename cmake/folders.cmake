# One library per folder of src/, one test program per folder that has *_test.cc files. Files are globbed: a new source,
# op or test needs no edit here.

# megalodon_sources(<list> <pattern>...): the sources that match, without tests and benchmarks.
function(megalodon_sources list)
  file(GLOB found CONFIGURE_DEPENDS ${ARGN})
  list(FILTER found EXCLUDE REGEX "_(test|bench)\\.cc$")
  set(${list} ${found} PARENT_SCOPE)
endfunction()

function(megalodon_use_torch target)
  target_link_libraries(${target} PUBLIC megalodon_torch)
  target_precompile_headers(${target} REUSE_FROM megalodon_torch)
endfunction()

# What a file includes (torch, JSON, gtest) takes most of its time to compile: several are compiled as one. Names in the
# anonymous namespaces of a target's files must differ therefore.
function(megalodon_compile_together target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${MEGALODON_UNITY} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

# For targets whose own code is not where time goes: the later -O wins, and the build is a good deal quicker. (The
# precompiled header stays valid: it records no code.)
function(megalodon_compile_quickly target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  megalodon_compile_together(${target})
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
  if(arg_TORCH)
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/torch_setup.cc)
    target_precompile_headers(${name} REUSE_FROM megalodon_torch)
  endif()
  megalodon_compile_quickly(${name})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(arg_TORCH)
    # As one: libtorch takes 0.7 s to start, most tests a few milliseconds.
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} COST $<IF:$<STREQUAL:${arg_LABEL},slow>,100,10>)
  else()
    gtest_discover_tests(${name} PROPERTIES LABELS ${arg_LABEL} DISCOVERY_TIMEOUT 120)
  endif()
endfunction()

# megalodon_library(<folder> [TORCH] DEPS <library>...): src/<folder>/*.cc as megalodon_<folder>, its tests as <folder>_test.
function(megalodon_library folder)
  cmake_parse_arguments(arg "TORCH" "" "DEPS" ${ARGN})
  set(name megalodon_${folder})
  megalodon_sources(sources ${PROJECT_SOURCE_DIR}/src/${folder}/*.cc)
  if(NOT sources)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${arg_DEPS})
    return()
  endif()
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PUBLIC ${arg_DEPS})
  megalodon_compile_together(${name})
  if(arg_TORCH)
    megalodon_use_torch(${name})
    megalodon_compile_quickly(${name})  # the kernels do the work
    set(torch TORCH)
  endif()
  file(GLOB tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${folder}/*_test.cc)
  megalodon_tests(${folder}_test ${torch} LABEL unit SOURCES ${tests} DEPS ${name})
endfunction()

# The CPU kernels: no torch include path, so that a stray include does not compile.
function(megalodon_kernels)
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/*/*_cpu.cc)
  add_library(megalodon_kernels STATIC ${kernels})
  target_include_directories(megalodon_kernels PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(megalodon_kernels PUBLIC PkgConfig::HWY OpenMP::OpenMP_CXX)
  target_compile_options(megalodon_kernels PRIVATE $<$<NOT:$<CONFIG:Debug>>:-O3>)
endfunction()

# The operator library around the kernels, its tests and the benchmark cases of the program.
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
  target_link_libraries(megalodon_ops PUBLIC megalodon_base PRIVATE megalodon_kernels ${products})
  target_compile_definitions(megalodon_ops PRIVATE MEGALODON_ONEDNN=$<TARGET_EXISTS:megalodon_onednn>
    MEGALODON_CUDA=${cuda})
  target_include_directories(megalodon_ops PUBLIC ${PROJECT_SOURCE_DIR}/src)
  megalodon_use_torch(megalodon_ops)
  megalodon_compile_quickly(megalodon_ops)

  file(GLOB tests CONFIGURE_DEPENDS ${ops}/*_test.cc ${ops}/*/*_test.cc)
  list(FILTER tests EXCLUDE REGEX "_cuda_test\\.cc$")
  megalodon_tests(ops_test TORCH LABEL unit SOURCES ${tests} DEPS megalodon_ops megalodon_kernels)

  file(GLOB benches CONFIGURE_DEPENDS ${ops}/*/*_bench.cc)
  add_library(megalodon_ops_bench STATIC ${ops}/bench.cc ${benches})
  target_link_libraries(megalodon_ops_bench PUBLIC megalodon_ops fmt::fmt)
  target_precompile_headers(megalodon_ops_bench REUSE_FROM megalodon_torch)
  megalodon_compile_quickly(megalodon_ops_bench)
endfunction()

# build/<preset>/megalodon
function(megalodon_program)
  megalodon_sources(sources ${PROJECT_SOURCE_DIR}/src/apps/*.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(megalodon ${sources})
  target_link_libraries(megalodon PRIVATE megalodon_train megalodon_eval megalodon_data megalodon_ops_bench CLI11::CLI11)
  target_compile_definitions(megalodon PRIVATE MEGALODON_VERSION="${PROJECT_VERSION}")
  target_precompile_headers(megalodon REUSE_FROM megalodon_torch)
  megalodon_compile_quickly(megalodon)
endfunction()
