// Kernels of chunk_attention: softmax attention over an interval of visible keys per query, forward and backward.
//
// Keys and values form one axis of T + L positions: the T prior ones, then the L of this call. Query i sees the keys
// begin[i] .. T + i; begin never falls with i. That one array says everything about chunks, documents and streams.
//
// CPU (chunk_attention_cuda.cu has its own notes). FLOPs per visible pair and head: forward 2 (K + V), backward 2 (3 K
// + 2 V) needed, 2 (4 K + 3 V) done: the scores are computed once in a pass over key tiles (dK, dV) and once more in a
// pass over query tiles (dQ), so that every gradient has one owner, which makes the result independent of the number of
// threads without partial sums.
//
// GFLOP/s of one thread by its CPU time, 2026-11, Intel Xeon with AVX-512 (2 cores, busy with other work; torch's sgemm
// reached 190 in the same minutes), [B, L, H, K, V] with chunk C:
//   [1, 2048, 3, 64, 128], C = 256      forward 120   backward 88 of the needed work (125 of the done)
//   [1, 2048, 1, 256, 2048], C = 2048   forward 130   backward 95 (139)
//   one token after 2047 of the latter  0.84 ms, 22 GB/s
// Pairs of bfloat16, 2 threads of an AMD EPYC (Zen 4), whose float32 kernel does 208 and 174, 243 and 220 in the same
// run:
//   [1, 2048, 3, 64, 128], C = 256      forward 216   forward and backward 240
//   [1, 2048, 1, 256, 2048], C = 2048   forward 440   forward and backward 401
// What it took: no transposing per pair of tiles (tile_matmul-inl.h), row ranges found before and not inside the panel
// loop, panels copied without memcpy; each was 5 to 15 % of the time.
//
// Results of one chunk or document never depend on finite numbers in another; a NaN may reach the 6 queries or keys
// that share a register block with it.
#pragma once

#include <cstdint>

#include "base/philox.h"
#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

/// Everything is contiguous. q [B,L,H,K], k [B,L,H,K], v [B,L,H,V], prior_k [B,T,H,K], prior_v [B,T,H,V] are of `type`.
/// On the CPU bfloat16 wants K and V even, scale 1 and chunk_attention_has_pairs(), and y is float32.
struct ChunkAttentionArgs {
  const void *q, *k, *v, *prior_k, *prior_v;  // prior_*: not read where T = 0
  NumberType type;
  const int64_t* begin;  // [B,L]: first visible key, 0 <= begin <= T + i, nondecreasing along L
  void* y;               // [B,L,H,V]
  NumberType y_type;
  float* lse;  // [B,H,L]: log Σ_j exp(scale · q_i·k_j)
  int64_t B, L, T, H, K, V;
  float scale;
  double dropout;  // probability; 0: none
  uint64_t dropout_key;
  // What the host knows of `begin`, which the GPU has; the CPU does not look at it.
  int64_t window = 0;  // no query sees more keys, itself included; >= 1
  int64_t phase = -1;  // all rows begin at this position of a chunk of `window` steps and every further chunk is full:
                       // no documents begin; <= T. −1: nothing is known but `window`
};

struct ChunkAttentionGradArgs {
  ChunkAttentionArgs forward;                // with y and lse as the forward left them
  const float* dy;                           // [B,L,H,V]; the CPU's
  const void* dy_factor;                     // dy in `type`
  NumberType grad_type;                      // float32 on the CPU
  void *dq, *dk, *dv, *dprior_k, *dprior_v;  // written, not added to; dprior_*: not touched where T = 0
  float* delta;                              // scratch [B,H,L]: Σ_e dy · y
};

/// Whether this processor multiplies pairs of bfloat16.
bool chunk_attention_has_pairs();
void chunk_attention_forward_cpu(const ChunkAttentionArgs& args);
void chunk_attention_backward_cpu(const ChunkAttentionGradArgs& args);
void chunk_attention_forward_cuda(const ChunkAttentionArgs& args, CudaQueue& queue);
void chunk_attention_backward_cuda(const ChunkAttentionGradArgs& args, CudaQueue& queue);

/// Uniform numbers for the probabilities of query i and keys 4·block .. 4·block + 3 in head h of row b.
constexpr Philox4 attention_dropout_bits(uint64_t key, int64_t b, int64_t h, int64_t i, int64_t block) {
  return philox(key, static_cast<uint64_t>(i) << 32 | static_cast<uint64_t>(block),
                static_cast<uint64_t>(b) << 32 | static_cast<uint64_t>(h));
}

/// 0 with probability p, else 1 / (1 − p).
constexpr float dropout_factor(uint32_t bits, double p) {
  return philox_uniform(bits) >= static_cast<float>(p) ? static_cast<float>(1.0 / (1.0 - p)) : 0.0f;
}

/// What the probability of query i and key j (counted from the first prior key) is multiplied with.
constexpr float attention_dropout_factor(uint64_t key, int64_t b, int64_t h, int64_t i, int64_t j, double p) {
  return dropout_factor(attention_dropout_bits(key, b, h, i, j / 4)[j % 4], p);
}

}  // namespace megalodon::ops
