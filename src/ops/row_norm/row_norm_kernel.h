// Kernels of rms_norm and layer_norm. The CPU's read float32 and write float32 or bfloat16; the GPU's
// (row_norm_cuda.cu says how they split the work) also read bfloat16.
//
// On the CPU, forward: one task per block of rows; a row is read three times (mean, deviation, output), from L1 after
// the first time. Backward: statistics are recomputed from x (cheaper than the memory to store them), then with g = dy
// (1 + w), c = x − mean:  dx = rstd g − rstd/K Σg − c rstd³/K Σ(g c), where rms_norm has mean = 0 and no middle term.
// Gradients of weight and bias are partial sums per row block, added up in order: blocks depend on the shape alone, so
// the result has the same bits for any number of threads. Traffic: 8 bytes an element forward, 12 backward; 5 and 13
// flops.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

struct RowNormArgs {
  int64_t rows, size;  // x, y, dy, dx are [rows, size]
  bool centered;       // layer_norm; otherwise rms_norm
  double eps;
  NumberType x_type;  // of x and dx
  NumberType y_type;  // of y and dy
  const void* x;
  const float* weight;  // [size], stored minus one; may be null
  const float* bias;    // [size]; may be null
};

struct RowNormResult {
  void* y;
};

struct RowNormGradients {
  const void* dy;
  void* dx;
  float* dweight;  // [size]; null with dbias: neither is wanted
  float* dbias;
};

void row_norm_forward_cpu(const RowNormArgs& args, const RowNormResult& result);
void row_norm_backward_cpu(const RowNormArgs& args, const RowNormGradients& gradients);
void row_norm_forward_cuda(const RowNormArgs& args, const RowNormResult& result, CudaQueue& queue);
void row_norm_backward_cuda(const RowNormArgs& args, const RowNormGradients& gradients, CudaQueue& queue);

}  // namespace megalodon::ops
