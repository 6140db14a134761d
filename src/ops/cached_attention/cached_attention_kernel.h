// Kernel of cached_attention for a few steps: bound by reading the cache.
//
// A row's keys are cut into spans of kSpan. A task takes one span of one head of one row: scores, their maximum, the
// sum of the exponentials and the values weighted with them, for all steps of the call. A second pass adds a head's
// spans up. Spans lie at fixed places of the chunk, so that neither the other rows nor the threads nor the number of
// steps of a call change a result.
#pragma once

#include <cstdint>

#include "ops/number.h"

namespace megalodon::ops {

/// One stream's cache in one layer: k [C,H,K] and v [C,H,V].
struct CachedAttentionRow {
  void *k, *v;
  int64_t position;  // steps that are there; those of this call come behind them
};

struct CachedAttentionArgs {
  const float *q, *k, *v;          // [B,L,H,K], [B,L,H,K], [B,L,H,V]
  const CachedAttentionRow* rows;  // [B]
  NumberType type;                 // of the caches
  float* y;                        // [B,L,H,V]
  int64_t B, L, H, K, V;
};

/// Also stores k and v in the caches.
void cached_attention_cpu(const CachedAttentionArgs& args);

}  // namespace megalodon::ops
