// Activation checkpointing: trade one more forward pass for the memory of a layer's activations.
#pragma once

#include <functional>

#include "base/compat.h"

namespace megalodon::nn {

/// first(x), keeping only x; the backward pass runs `again`, which may come long after this call and must be the same
/// pure function of x and of parameters, whose gradients are accumulated into .grad by backward()
/// (torch::autograd::grad() does not see them). Besides, `first` may tell others what it found.
Tensor checkpoint(const std::function<Tensor(const Tensor&)>& first, std::function<Tensor(const Tensor&)> again,
                  const Tensor& x);

}  // namespace megalodon::nn
