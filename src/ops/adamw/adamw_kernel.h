// Kernels of the optimizer step.
#pragma once

#include <cstdint>

namespace megalodon::ops {

struct AdamWArgs {
  float* parameter;
  const float* gradient;
  float* exp_avg;
  float* exp_avg_sq;
  int64_t size;
  float shrink;              // 1 − lr · decay
  float beta1, beta2;        // and 1 − β, rounded from float64: 1 − 0.999F would be off by 2e-5 of itself
  float rest1, rest2;        // 1 − β1, 1 − β2
  float rate;                // lr / (1 − β1^t)
  float inverse_correction;  // 1 / (1 − β2^t)
  float eps, gradient_scale;
};
void adamw_cpu(const AdamWArgs& args);

/// Σ x² of blocks of fixed size, added in order.
double sum_of_squares_cpu(const float* x, int64_t size);

}  // namespace megalodon::ops
