// The parts of torch.save's format that work on memory; tensor_file.h has the ones that work on files.
#pragma once

#include <memory>
#include <span>

#include "io/tensor_file.h"

namespace megalodon::io {

/// `owner` keeps `file` alive.
TensorFile parse_torch_file(std::span<const std::byte> file, std::shared_ptr<const void> owner);

}  // namespace megalodon::io
