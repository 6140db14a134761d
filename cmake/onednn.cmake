# Finds oneDNN 2 (libdnnl-dev) as the target megalodon_onednn. Not by its own package file, which asks for OpenCL; and not
# version 3, whose interface is another.
find_path(ONEDNN_INCLUDE_DIR dnnl.hpp)
find_library(ONEDNN_LIBRARY dnnl)
if(ONEDNN_INCLUDE_DIR AND ONEDNN_LIBRARY)
  file(STRINGS ${ONEDNN_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h version REGEX "define DNNL_VERSION_MAJOR 2$")
endif()
if(version)
  add_library(megalodon_onednn INTERFACE)
  target_include_directories(megalodon_onednn SYSTEM INTERFACE ${ONEDNN_INCLUDE_DIR})
  target_link_libraries(megalodon_onednn INTERFACE ${ONEDNN_LIBRARY})
else()
  message(STATUS "oneDNN 2 was not found: libtorch makes the matrix products, more slowly on x86")
endif()
