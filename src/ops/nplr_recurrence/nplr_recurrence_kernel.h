// Kernel of the recurrence; equations and shapes in nplr_recurrence.h. Plain pointers, contiguous arrays; a complex
// number is two floats (re, im). Forward only: training convolves.
#pragma once

#include <cstdint>

namespace megalodon::ops {

struct NplrRecurrenceInputs {
  int64_t B, L, D, N, R;
  const float* u;         // [B,L,D]
  const float *q, *beta;  // [D,N] complex
  const float *f, *w;     // [R,D,N] complex
  const float* phi;       // [R,D]
  const float* c;         // [D,N] complex
  const float* skip;      // [D]
  const float* x0;        // [B,D,N] complex, or null: zero
  const bool* starts;     // [B,L], or null: no document begins here
};

struct NplrRecurrenceOutputs {
  float* y;  // [B,L,D]
  float* x;  // [B,D,N] complex, or null: not asked for
};

void nplr_recurrence_cpu(const NplrRecurrenceInputs& in, const NplrRecurrenceOutputs& out);

}  // namespace megalodon::ops
