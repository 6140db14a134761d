// Kernels of the linear recurrence; equation and shapes in linear_recurrence.h. Plain pointers, contiguous
// arrays; a complex number is two floats (re, im). Linear in L: a scan, no FFT, and x is never transposed.
//
// Gradients, with G = dL/dRe + i dL/dIm and g_t the gradient of h_t:
//   g_t  = conj(c) dy_t + [t+1 continues] conj(q) g_(t+1)     (+ dh at the last step)
//   dx_t = Σ_n Re g_t,n + skip dy_t        dq = Σ_t [t continues] conj(h_(t-1)) g_t      dc = Σ_t conj(h_t) dy_t
//   dskip = Σ_t x_t dy_t                   dh0 = [0 continues] conj(q) g_0
// where "t continues" means that no document begins at t.
//
// Work per step, feature and order: 6 multiply-adds forward, 21 backward (8 of them run the states forward twice).
// Bytes per step and feature: 8 forward, 16 backward. Measured in 2026-11 on an Intel Xeon with AVX-512, 2 cores, 2
// threads:
//
//   [B,L,D,N]           forward    forward + backward
//   [1,2048,1024,16]    2.0 ms     8.1 ms                 200 GFLOP/s forward
//   [1,2048,384,8]      0.62 ms    2.0 ms
//   [1,1,1024,16]       0.009 ms                          from state to state (decoding), one thread
//
// Tried: tasks of four vectors of features, to visit each page of x less often: 17 % faster forward on one thread at
// D = 1024, nothing at D = 384, half the tasks' parallelism; not kept. Prefetching the next rows of x: 10 to 20 %.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

/// For the CPU kernel, whose numbers are float32.
inline const float* as_floats(const void* numbers) {
  return static_cast<const float*>(numbers);
}
inline float* as_floats(void* numbers) {
  return static_cast<float*>(numbers);
}

struct RecurrenceInputs {
  int64_t B, L, D, N;
  NumberType type;     // of x, y, dy and dx: float32, on a GPU also bfloat16
  const void* x;       // [B,L,D]
  const float* q;      // [D,N] complex
  const float* c;      // [D,N] complex
  const float* skip;   // [D]
  const float* h0;     // [B,D,N] complex, or null: zero
  const bool* starts;  // [B,L], or null: no document begins here
};

struct RecurrenceOutputs {
  void* y;   // [B,L,D]
  float* h;  // [B,D,N] complex, or null: not asked for
};

struct RecurrenceGradients {
  const void* dy;   // [B,L,D]
  const float* dh;  // [B,D,N] complex, or null: zero
  void* dx;         // [B,L,D]
  float* dq;        // [D,N] complex
  float* dc;        // [D,N] complex
  float* dskip;     // [D]
  float* dh0;       // [B,D,N] complex, or null: not asked for
};

void linear_recurrence_forward_cpu(const RecurrenceInputs& in, const RecurrenceOutputs& out);

/// Overwrites the gradients. The same bits for any number of threads.
void linear_recurrence_backward_cpu(const RecurrenceInputs& in, const RecurrenceGradients& grad);

/// N at most 256. See linear_recurrence_cuda.cu.
constexpr int64_t kMostCudaOrders = 256;
void linear_recurrence_forward_cuda(const RecurrenceInputs& in, const RecurrenceOutputs& out, CudaQueue& queue);
void linear_recurrence_backward_cuda(const RecurrenceInputs& in, const RecurrenceGradients& grad, CudaQueue& queue);

}  // namespace megalodon::ops
