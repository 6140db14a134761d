// The pickle inside torch.save's files. A pickle is a program; the reader runs the few instructions that a state dict
// needs and refuses every other, so nothing in a file can call anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor_file.h"

namespace megalodon::io {

/// A tensor of a state dict: a strided window on a storage, which the archive has in an entry of its own.
struct PickledTensor {
  std::string name;
  std::string storage;  // its key
  Dtype dtype = Dtype::F32;
  int64_t storage_size = 0;  // in elements, as are the offset and the strides
  int64_t offset = 0;
  std::vector<int64_t> shape, strides;
};

/// The tensors of a dict in its order, each name once. Sizes and strides are as the file has them, not checked.
std::vector<PickledTensor> parse_pickle(std::span<const std::byte> pickle);

/// Names must be valid UTF-8.
std::string write_pickle(std::span<const PickledTensor> tensors);

}  // namespace megalodon::io
