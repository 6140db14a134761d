// What kernels read and write: float32, or bfloat16 where a matrix product made it or will take it. Arithmetic is
// float32 in either case. number-inl.h has the vectors.
#pragma once

#include <cstdint>

namespace megalodon::ops {

/// What matrix products are made of. All other arithmetic (norms, recurrences, rotary angles, softmax, loss, sums over
/// the batch of biases' gradients) and weights and moments are float32 in either case.
enum class Precision {
  kFloat32,   // the dtype of the tensors, which is float32 but for tests in float64
  kBfloat16,  // bfloat16 inputs, float32 sums, forward and backward
};

enum class NumberType : uint8_t { kFloat32, kBfloat16 };

/// The upper half of a float32.
struct Bfloat16 {
  uint16_t bits;
};

}  // namespace megalodon::ops
