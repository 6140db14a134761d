# Finds libtorch: Debian's libtorch-dev or any 2.x build named by CMAKE_PREFIX_PATH, as the target megalodon_torch with
# the precompiled headers that every torch file of the project shares.
find_package(Torch REQUIRED)

add_library(megalodon_torch STATIC ${PROJECT_SOURCE_DIR}/cmake/torch_pch.cc)
target_include_directories(megalodon_torch SYSTEM PUBLIC ${TORCH_INCLUDE_DIRS})
target_link_libraries(megalodon_torch PUBLIC ${TORCH_LIBRARIES})
separate_arguments(MEGALODON_TORCH_FLAGS UNIX_COMMAND "${TORCH_CXX_FLAGS}")
target_compile_options(megalodon_torch PUBLIC ${MEGALODON_TORCH_FLAGS} -fopenmp)
# JSON and fmt ride along: nearly every torch file includes them too.
target_link_libraries(megalodon_torch PUBLIC nlohmann_json::nlohmann_json fmt::fmt)
target_precompile_headers(megalodon_torch PRIVATE ${PROJECT_SOURCE_DIR}/src/base/compat.h <torch/library.h> <nlohmann/json.hpp> <fmt/format.h> <fmt/ranges.h>)
