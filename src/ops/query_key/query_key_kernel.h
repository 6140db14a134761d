// Kernels of query_key: headwise RMS norm, two affine maps, two rotations.
//
// Forward: z is read once, q and k written once; 12 bytes an element in float32, 6 in bfloat16. Backward: with g_i the
// gradient of y_i rotated back, du = Σ_i g_i scale_i, and u computed again from z,
//   dz = rstd du − z rstd³/K Σ(du z),   dscale_i = Σ g_i u,   dshift_i = Σ g_i     (the last two over tokens),
// 16 bytes an element, 8 in bfloat16. The sums over tokens are partial sums per block of tokens, added up in order:
// blocks depend on the shape alone, so the results have the same bits for any number of threads.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

struct QueryKeyArgs {
  int64_t tokens, heads, head_dim;  // head_dim even
  double eps;
  NumberType z_type, y_type;  // of z and dz; of q, k, dq and dk
  const void* z;              // [tokens, heads, head_dim], as q, k and all gradients of the three
  const float* scale;         // [2, heads, head_dim]
  const float* shift;         // [2, heads, head_dim]
  const int64_t* position;    // [tokens], >= 0
  const float* frequencies;   // [head_dim / 2]
};

struct QueryKeyResults {
  void *q, *k;
};

struct QueryKeyGradients {
  const void *dq, *dk;
  void* dz;
  float *dscale, *dshift;  // [2, heads, head_dim]
};

void query_key_forward_cpu(const QueryKeyArgs& args, const QueryKeyResults& results);
void query_key_backward_cpu(const QueryKeyArgs& args, const QueryKeyGradients& gradients);

void query_key_forward_cuda(const QueryKeyArgs& args, const QueryKeyResults& results, CudaQueue& queue);
void query_key_backward_cuda(const QueryKeyArgs& args, const QueryKeyGradients& gradients, CudaQueue& queue);

}  // namespace megalodon::ops
