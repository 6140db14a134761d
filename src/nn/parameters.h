// Parameters named by paths, as in the published state dict.
#pragma once

#include <string>

#include "base/compat.h"

namespace megalodon::nn {

/// Registers a float32 parameter of that shape under a dotted path ("timenorm.weight"), making the plain modules on the
/// way. Its memory is not initialized (and for large models not even touched).
Tensor register_at(torch::nn::Module& module, const std::string& path, torch::IntArrayRef shape);

}  // namespace megalodon::nn
