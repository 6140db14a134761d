// Kernels of timestep_norm. The CPU's read and write float32; the GPU's (timestep_norm_cuda.cu says how they split the
// work) float32 or bfloat16.
//
// Groups never meet, so a task is (batch row, slab of neighbouring groups) and walks through time on its own: no second
// pass over x, no exchange between threads, the same bits whatever the slabs and threads. For each step it takes mean m
// and variance v of every group's K features, merges them into the running ones (n steps so far, the new one included)
//
//   mean += (m − mean) / n        var += (v − var + (m − mean_before)² (n − 1)/n) / n
//
// in float64 (an update of relative size 10^-9 still counts), vectorized over the groups of the slab, and normalizes
// the step while it is in L1. Batch rows × groups bound the parallelism: 32 tasks at batch 1 with 32 groups.
//
// Groups are small (12 or 32 features), so what costs is adding up few numbers many times and memory that comes in
// short runs. Sums of neighbouring groups fill vectors together (group_math-inl.h), and the next step is fetched
// meanwhile. Together, on 2 cores of an AMD EPYC (Zen 5), forward / with backward, medians of runs in turns, before and
// after:
//   [1,2048,384], 32 groups    0.80 / 2.3 ms    0.50 / 1.3 ms
//   [1,2048,1024], 32 groups   0.95 / 3.4 ms    0.65 / 2.2 ms
//   [1,2048,4096], 64 groups   3.8 / 13.9 ms    2.1 / 7.5 ms
// Fetching two steps ahead: slower where rows are 4 KiB apart. A lookup for every lane also where a vector lies in one
// group: twice the time of the forward pass at 32 features.
//
// Backward, with g = dy (1 + w), c = x − mean_t, and M, V the gradients that reach mean_t and var_t from step t and
// later:
//
//   M += −rstd Σg,  V += −rstd³/2 Σgc          (step t's own output)
//   dx = rstd g + (M + 2 V c) / (n K)
//   M ← M (n − 1)/n − 2 V Σc/(n K),  V ← V (n − 1)/n          (to step t − 1; both 0 where n = 1)
//
// run from the last step to the first, again one pass. What a masked step holds is never read.
// Saved for it: mean (float64) and rstd (float32) per step and group.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

struct TimestepNormArgs {
  int64_t B, L, G, K;  // K = D/G features a group
  double eps;
  NumberType x_type;      // of x and dx
  NumberType y_type;      // of y and dy
  const void* x;          // [B,L,G,K]
  const float* weight;    // [G,K], stored minus one; may be null
  const float* bias;      // [G,K]; may be null
  const bool* mask;       // [B,L], true at steps to leave out; may be null
  const bool* starts;     // [B,L], true where a document begins; may be null
  const int64_t* count0;  // [B]; null with the next two: a fresh start
  const double* mean0;    // [B,G]
  const double* var0;     // [B,G]
};

struct TimestepNormResult {
  void* y;           // [B,L,G,K]
  int64_t* count;    // [B]
  double* mean;      // [B,G]
  double* var;       // [B,G]
  double* mean_BLG;  // for the backward; null with the next two: not wanted. The CPU leaves masked steps out
  float* rstd_BLG;
  int64_t* count_BL;  // steps so far, this one included; the CPU neither writes nor reads it
};

struct TimestepNormGradients {
  const double* mean_BLG;
  const float* rstd_BLG;
  const int64_t* count_BL;
  const void* dy;       // [B,L,G,K]
  const double* dmean;  // [B,G], of the final state
  const double* dvar;
  void* dx;        // [B,L,G,K]
  float* dweight;  // [G,K]; null: not wanted
  float* dbias;    // [G,K]; null: not wanted
  double* dmean0;  // [B,G]; of the first state
  double* dvar0;
};

void timestep_norm_forward_cpu(const TimestepNormArgs& args, const TimestepNormResult& result);
void timestep_norm_backward_cpu(const TimestepNormArgs& args, const TimestepNormGradients& gradients);
void timestep_norm_forward_cuda(const TimestepNormArgs& args, const TimestepNormResult& result, CudaQueue& queue);
void timestep_norm_backward_cuda(const TimestepNormArgs& args, const TimestepNormGradients& gradients,
                                 CudaQueue& queue);

}  // namespace megalodon::ops
