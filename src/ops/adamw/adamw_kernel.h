// Kernels of the optimizer step, for all of a model's tensors at once.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"

namespace megalodon::ops {

/// A parameter with all that its update reads and writes.
struct AdamWArrays {
  float* parameter;
  const float* gradient;
  float* exp_avg;
  float* exp_avg_sq;
  int64_t size;
  float shrink;  // 1 − lr · decay
};

struct AdamWArgs {
  const AdamWArrays* list;  // in the host's memory
  int64_t count;
  float beta1, beta2;        // and 1 − β, rounded from float64: 1 − 0.999F would be off by 2e-5 of itself
  float rest1, rest2;        // 1 − β1, 1 − β2
  float rate;                // lr / (1 − β1^t)
  float inverse_correction;  // 1 / (1 − β2^t)
  float eps, gradient_scale;
};
void adamw_cpu(const AdamWArgs& args);
void adamw_cuda(const AdamWArgs& args, CudaQueue& queue);

struct ConstArray {
  const float* data;
  int64_t size;
};

struct SumOfSquaresArgs {
  const ConstArray* list;  // in the host's memory
  int64_t count;
  double* sum;  // one number, in the arrays' memory
};
/// Σ x² of blocks of fixed size, added in order, array after array.
void sum_of_squares_cpu(const SumOfSquaresArgs& args);
void sum_of_squares_cuda(const SumOfSquaresArgs& args, CudaQueue& queue);

}  // namespace megalodon::ops
