// The parts of the safetensors format that work on memory; tensor_file.h has the ones that work on files.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>

#include "io/tensor_file.h"

namespace megalodon::io {

/// `owner` keeps `file` alive.
TensorFile parse_safetensors(std::span<const std::byte> file, std::shared_ptr<const void> owner);

/// Everything in front of the data: the length and the padded header. The tensors' bytes, which are not looked at,
/// follow in the order given.
std::string safetensors_header(std::span<const TensorView* const> tensors,
                               const std::map<std::string, std::string>& metadata);

/// The order in which a file holds them: large elements first, then by name, so that each tensor is aligned.
std::vector<const TensorView*> safetensors_order(std::span<const TensorView> tensors);

}  // namespace megalodon::io
