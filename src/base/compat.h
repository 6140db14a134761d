// Every difference between the libtorch versions we build against (1.13 of Debian 12, any 2.x) is settled here.
#pragma once

// Not <torch/torch.h>: all of it would make every file's compilation twice as long.
#include <torch/autograd.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <torch/version.h>

#include <optional>

namespace megalodon {

using torch::Tensor;

/// What operator schemas call "Tensor?": c10::optional in 1.13, std::optional in 2.x, under one name.
using OptionalTensor = c10::optional<Tensor>;

inline OptionalTensor maybe(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : OptionalTensor();
}
inline Tensor or_undefined(const OptionalTensor& tensor) {
  return tensor.has_value() ? *tensor : Tensor();
}

}  // namespace megalodon
