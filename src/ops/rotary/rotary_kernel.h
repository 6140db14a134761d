// Kernels of rotary: y_2i = x_2i cos − x_2i+1 sin, y_2i+1 = x_2i sin + x_2i+1 cos, the angle being position ·
// frequency_i in float32. Sines are computed once for all heads, and on the CPU once for all tokens that share a
// position (as chunks do); what is left reads and writes x once and runs at the speed of memory.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

struct RotaryArgs {
  NumberType type;           // of x and y
  const void* x;             // [tokens, heads, head_dim]
  const int64_t* position;   // [tokens], >= 0
  const float* frequencies;  // [head_dim / 2]
  void* y;                   // like x, may be x
  int64_t tokens, heads, head_dim;
  bool inverse;  // rotate by the negative angle, which is the gradient
};

void rotary_cpu(const RotaryArgs& args);
void rotary_cuda(const RotaryArgs& args, CudaQueue& queue);

}  // namespace megalodon::ops
