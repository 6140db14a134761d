// What kernels read and write: float32, or bfloat16 where a matrix product made it or will take it. Arithmetic is
// float32 in either case. number-inl.h has the vectors.
#pragma once

#include <cstdint>

namespace megalodon::ops {

enum class NumberType : uint8_t { kFloat32, kBfloat16 };

/// The upper half of a float32.
struct Bfloat16 {
  uint16_t bits;
};

}  // namespace megalodon::ops
