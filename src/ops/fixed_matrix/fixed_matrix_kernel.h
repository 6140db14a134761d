// Kernels of fixed_matrix; fixed_matrix.h says what the stored bytes are.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

enum class FixedType : uint8_t { kFloat32, kBfloat16, kQ8, kQ4 };

/// Inputs of a row that share s and m.
constexpr int64_t kFixedGroup = 32;

/// Of x, beyond which the library multiplies: on a CPU float32 and bfloat16, on a GPU all types.
constexpr int64_t kFewRows = 32;

/// Rows lie in blocks, and the inputs of a block's rows in records, one record after the other.
struct FixedLayout {
  int64_t block_rows, record_inputs, record_bytes;
};

constexpr FixedLayout fixed_layout(FixedType type) {
  switch (type) {
    case FixedType::kFloat32:
      return {64, 16, 4096};
    case FixedType::kBfloat16:
      return {64, 32, 4096};
    case FixedType::kQ8:
      return {16, 64, 64 + 1024};
    case FixedType::kQ4:
      return {16, 32, 64 + 256};
  }
  return {};
}

/// W [O,I], which somebody else owns.
struct FixedView {
  FixedType type;
  int64_t O, I;
  const uint8_t* bytes;  // at a multiple of 4, on a GPU of 16; of 64 is fastest

  constexpr int64_t blocks() const { return (O + fixed_layout(type).block_rows - 1) / fixed_layout(type).block_rows; }
  constexpr int64_t records() const {
    return (I + fixed_layout(type).record_inputs - 1) / fixed_layout(type).record_inputs;
  }
  constexpr int64_t block_bytes() const { return records() * fixed_layout(type).record_bytes; }
};

/// y = x Wᵀ (+ bias) (+ addend).
struct FixedProduct {
  FixedView w;
  int64_t M;
  const float* x;       // [M,I]
  const float* bias;    // [O], or null
  const float* addend;  // [M,O], or null
  float* y;             // [M,O]
};

/// Any M. Every row is computed in one order, whatever M and the number of threads are.
void fixed_product_cpu(const FixedProduct& product);

/// The same in device memory. Up to kFewRows rows every one is computed in one order, whatever M is, and agrees with
/// the CPU's up to the order of float32 sums.
void fixed_product_cuda(const FixedProduct& product, CudaQueue& queue);

/// Writes w [O,I] as the bytes of a view of that type. False where a number is not finite or of a magnitude above 1e38:
/// then the bytes mean nothing. T is float or Bfloat16.
template <class T>
bool fixed_store_cpu(const T* w, const FixedView& view, uint8_t* bytes);

/// Whether the bytes stand for numbers that fixed_store_cpu() takes, by the scales and least values of q8 and q4.
bool fixed_is_finite_cpu(const FixedView& view);

/// The numbers that the bytes stand for, as [O,I].
void fixed_restore_cpu(const FixedView& view, float* w);

/// The same of the rows [first, first + rows), both multiples of 64, as [I,rows]; from row O on zeros. Of float32 and
/// bfloat16 alone.
void fixed_unpack_cpu(const FixedView& view, int64_t first, int64_t rows, float* w);

}  // namespace megalodon::ops
