# Finds libtorch: Debian's libtorch-dev or any 2.x build named by CMAKE_PREFIX_PATH, as the target megalodon_torch.
# Where it has CUDA it would have all CUDA files compiled for the GPUs that it chooses itself.
set(cuda_flags "${CMAKE_CUDA_FLAGS}")
if(NOT TORCH_CUDA_ARCH_LIST)
  set(TORCH_CUDA_ARCH_LIST "9.0")
endif()
find_package(Torch REQUIRED)
set(CMAKE_CUDA_FLAGS "${cuda_flags}")

# PyTorch's wheels export parts of another version of the C++ library (std::filesystem's, for one), which crash when ours
# calls them: the loader has to find ours first.
add_link_options("LINKER:--push-state,--no-as-needed" -lstdc++ "LINKER:--pop-state")

add_library(megalodon_torch INTERFACE)
# PyTorch's wheels bring headers of another fmt, without its library: ours come first.
target_include_directories(megalodon_torch SYSTEM INTERFACE
  $<TARGET_PROPERTY:fmt::fmt,INTERFACE_INCLUDE_DIRECTORIES> ${TORCH_INCLUDE_DIRS})
# JSON and fmt ride along: nearly every torch file includes them too.
target_link_libraries(megalodon_torch INTERFACE ${TORCH_LIBRARIES} nlohmann_json::nlohmann_json fmt::fmt)
separate_arguments(MEGALODON_TORCH_FLAGS UNIX_COMMAND "${TORCH_CXX_FLAGS}")
target_compile_options(megalodon_torch INTERFACE ${MEGALODON_TORCH_FLAGS} -fopenmp)
