// Kernel of dropout: y_i = x_i · (u_i >= p) / (1 − p), u_i the i-th uniform of the Philox stream `key`.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

struct DropoutArgs {
  NumberType type;  // of x and y
  const void* x;
  void* y;  // may be x
  int64_t size;
  double p;
  uint64_t key;
};

void dropout_cpu(const DropoutArgs& args);
void dropout_cuda(const DropoutArgs& args, CudaQueue& queue);

/// The mask alone, as 0 or 1/(1 − p).
void dropout_mask_cpu(double* mask, int64_t size, double p, uint64_t key);

}  // namespace megalodon::ops
