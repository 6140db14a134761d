// Operators are registered as torch.ops.megalodon.<op> by the op's own .cc file (TORCH_LIBRARY_FRAGMENT), with the
// public function of the op underneath: C++ and Python callers run the same code, autograd included.
#pragma once

#include <torch/library.h>

#include "base/compat.h"
#include "ops/number.h"

namespace megalodon::ops {

/// MEGALODON_KERNELS=ref runs every op on its reference composition, to bisect a wrong number in minutes.
bool use_reference();

/// True where the framework-free float32 CPU kernel serves: CPU tensor, float32, kernels not switched off.
bool use_cpu_kernel(const Tensor& x);

/// Of a float32 or bfloat16 tensor.
inline NumberType number_type(const Tensor& x) {
  return x.scalar_type() == torch::kBFloat16 ? NumberType::kBfloat16 : NumberType::kFloat32;
}

/// Whether an op of these inputs will be asked for gradients. (An autograd function's context does not know in
/// forward.)
bool is_differentiated(torch::TensorList inputs);

/// For the backward pass of kernels: without this, create_graph=True would silently lose terms.
void refuse_second_derivatives(const char* op);

}  // namespace megalodon::ops
