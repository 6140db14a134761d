// The last step of the gradients of weight and bias on the GPU: partial sums, one row per block of an earlier kernel,
// added up in a fixed order and in float64.
#pragma once

#include "ops/cuda_kernel.cuh"

namespace megalodon::ops::cuda {

constexpr int kSumRows = 32;  // of threads; each takes every 32nd part

static __global__ void __launch_bounds__(kWarp* kSumRows)
    add_up_partials(const float* partials, int64_t parts, int64_t size, float* dscale, float* dshift) {
  __shared__ double sums[kSumRows][kWarp + 1];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  double sum = 0;
  if (column < 2 * size) {
#pragma unroll 8
    for (int64_t part = row; part < parts; part += kSumRows) sum += partials[part * 2 * size + column];
  }
  sums[row][lane] = sum;
  __syncthreads();
  if (row != 0 || column >= 2 * size) return;
  sum = 0;
  for (int i = 0; i < kSumRows; ++i) sum += sums[i][lane];
  float* target = column < size ? dscale : dshift;
  if (target != nullptr) target[column < size ? column : column - size] = static_cast<float>(sum);
}

/// partials [parts, 2, size] to dscale and dshift [size], either of which may be null; for `op`.
inline void sum_partials(const char* op, const float* partials, int64_t parts, int64_t size, float* dscale,
                         float* dshift, CudaQueue& queue) {
  const auto blocks = static_cast<unsigned>(divide_up(2 * size, kWarp));
  if (blocks > 0)
    launch(op, queue, {blocks, kWarp * kSumRows}, add_up_partials, partials, parts, size, dscale, dshift);
}

}  // namespace megalodon::ops::cuda
