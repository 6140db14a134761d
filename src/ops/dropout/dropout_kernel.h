// Kernel of dropout: y_i = x_i · (u_i >= p) / (1 − p), u_i the i-th uniform of the Philox stream `key`.
#pragma once

#include <cstdint>

namespace megalodon::ops {

struct DropoutArgs {
  const float* x;
  float* y;  // may be x
  int64_t size;
  double p;
  uint64_t key;
};

void dropout_cpu(const DropoutArgs& args);

/// The mask alone, as 0 or 1/(1 − p).
void dropout_mask_cpu(double* mask, int64_t size, double p, uint64_t key);

}  // namespace megalodon::ops
