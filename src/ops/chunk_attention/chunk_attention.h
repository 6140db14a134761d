// Chunk-wise attention (Megalodon, section 3.3): softmax attention, causal inside chunks of C steps, nothing across.
//
//   y_i = Σ_j softmax_j( scale · q_i·k_j ) v_j        over the visible j: same chunk, same document, j <= i
//
// Chunks count from the start of the document: step 0 of a stream, or the last position where `starts` is true. A
// stream that stopped inside a chunk goes on with the keys and values of that open chunk as prior_k, prior_v.
//
// Shapes: q, k [B,L,H,K] · v [B,L,H,V] (V may differ from K) · prior_k [B,T,H,K], prior_v [B,T,H,V] with T < C. Scores
// are never held for more than a tile. Softmax is float32 (float64 for float64 input).
#pragma once

#include "base/compat.h"
#include "ops/number.h"

namespace megalodon::ops {

struct ChunkAttentionOptions {
  int64_t chunk_size = 0;  // C; 0 is one chunk without end
  double scale = 1.0;
  Tensor starts_BL;                   // bool, true where a document begins; undefined: none
  Tensor prior_k_BTHK, prior_v_BTHV;  // undefined: none
  Tensor position_B;         // int64: how many of the last prior keys belong to the row's open chunk; undefined: all T.
                             // With a window the prior keys may be fewer, but no fewer than are seen
  double dropout = 0.0;      // probability, on the probabilities after softmax, inverted
  uint64_t dropout_key = 0;  // Philox key; same key, same mask
  /// kBfloat16: q, k, v, probabilities and their gradients are rounded before they are multiplied: on a GPU always, on
  /// the CPU where the processor has instructions for it, K and V are even, scale is 1 and there are more than 8
  /// queries; elsewhere products stay float32.
  Precision precision = Precision::kFloat32;
  int64_t window = 0;  // a query sees no more keys than the last so many, itself included; 0: all of its chunk
};

Tensor chunk_attention(const Tensor& q_BLHK, const Tensor& k_BLHK, const Tensor& v_BLHV,
                       const ChunkAttentionOptions& options);

/// Where each step stands: its position inside its chunk (which rotary embedding wants) and in the end the row's
/// position in the open chunk, 0 <= p < C. Both on the CPU, or on the GPU if `device` is one or an argument lies there
/// (nobody waits for it then, and nobody checks position_B). position_B undefined: every row stands at 0.
struct ChunkPositions {
  Tensor position_BL;  // int64
  Tensor next_B;       // int64, position of the step after the last one
};
ChunkPositions chunk_positions(int64_t batch, int64_t length, int64_t chunk_size, const Tensor& starts_BL,
                               const Tensor& position_B, torch::Device device = torch::kCPU);

/// The first key each query sees, int64 [B,L], on the axis of `prior` old and then the new keys; the last one is the
/// query's own position. Chunks, documents and streams are all in this one array. Device: as in chunk_positions().
Tensor first_visible_key(int64_t batch, int64_t length, int64_t prior, const ChunkAttentionOptions& options,
                         torch::Device device = torch::kCPU);

namespace ref {
Tensor chunk_attention(const Tensor& q_BLHK, const Tensor& k_BLHK, const Tensor& v_BLHV,
                       const ChunkAttentionOptions& options);
}  // namespace ref

}  // namespace megalodon::ops
