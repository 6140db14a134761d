// Activation checkpointing: trade one more forward pass for the memory of a layer's activations.
#pragma once

#include <functional>

#include "base/compat.h"

namespace megalodon::nn {

/// f(x), keeping only x; the backward pass runs f again. f must be a pure function of x and of parameters, whose
/// gradients are accumulated into .grad by backward() (torch::autograd::grad() does not see them).
Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x);

}  // namespace megalodon::nn
