// Parameters named by paths, as in the published state dict.
#pragma once

#include <string>

#include "base/compat.h"

namespace megalodon::nn {

/// Registers a float32 parameter of that shape under a dotted path ("timenorm.weight"), making the plain modules on the
/// way. Its memory is not initialized (and for large models not even touched).
Tensor register_at(torch::nn::Module& module, const std::string& path, torch::IntArrayRef shape);

/// Numbers in all parameters, tied ones once.
int64_t count_parameters(const torch::nn::Module& module);

/// What a norm of D features multiplies with and adds. Both are undefined where it does neither.
struct Affine {
  Affine() = default;
  /// Registers "<path>.weight" [D] and, where asked for, "<path>.bias" [D] with the module.
  Affine(torch::nn::Module& module, const std::string& path, int64_t dim, bool with_bias = true);
  /// The identity.
  void init_weights() const;

  Tensor weight, bias;  // the weight is stored minus one
};

}  // namespace megalodon::nn
