// Operators are registered as torch.ops.megalodon.<op> by the op's own .cc file (TORCH_LIBRARY_FRAGMENT), with the
// public function of the op underneath: C++ and Python callers run the same code, autograd included.
#pragma once

#include <torch/library.h>

#include "base/compat.h"
#include "ops/device.h"

namespace megalodon::ops {

/// Whether an op of these inputs will be asked for gradients. (An autograd function's context does not know in
/// forward.)
bool is_differentiated(torch::TensorList inputs);

/// For the backward pass of kernels: without this, create_graph=True would silently lose terms.
void refuse_second_derivatives(const char* op);

}  // namespace megalodon::ops
