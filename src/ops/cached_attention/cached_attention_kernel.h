// Kernels of cached_attention for a few steps: bound by reading the cache.
//
// A row's keys are cut into spans of fixed length. A task takes one span of one of the row's G heads of keys: scores,
// their maximum, the sum of the exponentials and the values weighted with them. A second pass adds up what the spans
// left. A head of keys has H/G queries in each step; those of all steps of the call are one axis for the kernels, which
// read a key once for several of them. Spans lie at fixed places of the chunk, so that neither the other rows nor the
// threads nor the number of steps of a call change a result.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

/// One stream's cache in one layer: k [C,G,K] and v [C,G,V].
struct CachedAttentionRow {
  void *k, *v;
  int64_t position;  // steps that are there; those of this call come behind them
};

struct CachedAttentionArgs {
  const void *q, *k, *v;           // [B,L,H,K], [B,L,G,K], [B,L,G,V]
  NumberType step_type;            // of these and of y; float32 on the CPU
  const CachedAttentionRow* rows;  // [B], where the kernel runs
  NumberType type;                 // of the caches
  const float* slope;              // [H]: added to a score is slope · (key − query's step); null: nothing
  void* y;                         // [B,L,H,V]
  int64_t B, L, H, G, K, V;
  int64_t C;  // no cache has room for more steps

  /// Of a head of keys: its query heads in the first step, then those in the next one.
  constexpr int64_t queries() const { return L * (H / G); }
  constexpr int64_t step_of(int64_t query) const { return query / (H / G); }
  constexpr int64_t head_of(int64_t g, int64_t query) const { return g * (H / G) + query % (H / G); }
  /// Where in [B,L,H] one of them lies.
  constexpr int64_t row_of(int64_t b, int64_t g, int64_t query) const {
    return (b * L + step_of(query)) * H + head_of(g, query);
  }
};

/// Also stores k and v in the caches.
void cached_attention_cpu(const CachedAttentionArgs& args);

/// At most so many steps, and caches that begin at multiples of 16 bytes. What is queued depends on no position, so
/// that it may be queued again, as it is, for rows that were written over.
constexpr int64_t kCachedAttentionSteps = 8;
void cached_attention_cuda(const CachedAttentionArgs& args, CudaQueue& queue);

}  // namespace megalodon::ops
