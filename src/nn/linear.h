// The linear layer of all architectures, and the one place that knows in which precision its products are made.
#pragma once

#include "base/compat.h"

namespace megalodon::nn {

/// What matrix products are made of. Everything else (norms, recurrences, rotary angles, softmax, loss, biases, sums
/// over the batch of their gradients, weights and moments) is float32 in either case.
enum class Precision {
  kFloat32,   // the dtype of the tensors, which is float32 but for tests in float64
  kBfloat16,  // bfloat16 inputs, float32 sums, forward and backward
};

/// y = x W^T [+ b], of x [..,in], weight [out,in] and bias [out] (may be undefined). With kBfloat16 all three are
/// float32, and so are y and the gradients.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Precision precision);

}  // namespace megalodon::nn
