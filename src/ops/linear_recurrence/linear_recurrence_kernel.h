// Float32 kernels of the linear recurrence; equation and shapes in linear_recurrence.h. Plain pointers, contiguous
// arrays; a complex number is two floats (re, im). Linear in L: a scan, no FFT, and x is never transposed.
//
// Gradients, with G = dL/dRe + i dL/dIm and g_t the gradient of h_t:
//   g_t  = conj(c) dy_t + [t+1 continues] conj(q) g_(t+1)     (+ dh at the last step)
//   dx_t = Σ_n Re g_t,n + skip dy_t        dq = Σ_t [t continues] conj(h_(t-1)) g_t      dc = Σ_t conj(h_t) dy_t
//   dskip = Σ_t x_t dy_t                   dh0 = [0 continues] conj(q) g_0
// where "t continues" means that no document begins at t.
#pragma once

#include <cstdint>

namespace megalodon::ops {

struct RecurrenceInputs {
  int64_t B, L, D, N;
  const float* x;      // [B,L,D]
  const float* q;      // [D,N] complex
  const float* c;      // [D,N] complex
  const float* skip;   // [D]
  const float* h0;     // [B,D,N] complex, or null: zero
  const bool* starts;  // [B,L], or null: no document begins here
};

struct RecurrenceOutputs {
  float* y;  // [B,L,D]
  float* h;  // [B,D,N] complex, or null: not asked for
};

struct RecurrenceGradients {
  const float* dy;  // [B,L,D]
  const float* dh;  // [B,D,N] complex, or null: zero
  float* dx;        // [B,L,D]
  float* dq;        // [D,N] complex
  float* dc;        // [D,N] complex
  float* dskip;     // [D]
  float* dh0;       // [B,D,N] complex, or null: not asked for
};

void linear_recurrence_forward_cpu(const RecurrenceInputs& in, const RecurrenceOutputs& out);

/// Overwrites the gradients. The same bits for any number of threads.
void linear_recurrence_backward_cpu(const RecurrenceInputs& in, const RecurrenceGradients& grad);

}  // namespace megalodon::ops
