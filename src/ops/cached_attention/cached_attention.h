// Attention for inference: the newest steps of a stream over the keys and values that it keeps of its open chunk.
//
//   y_i = Σ_j softmax_j( q_i·k_j + bias_j ) v_j        over the steps j <= i of the same chunk
//
// The same as attention() in chunks with the open one as prior_k, prior_v; but the cache is written in place and read
// where it lies, so that a step costs no memory, no copies, and reads every key and value once, for all heads that
// share it. Grouped heads and ALiBi's bias as in attention().
//
// Shapes: q [B,L,H,K] · k [B,L,G,K] · v [B,L,G,V] · y [B,L,H,V], H a multiple of G. No gradients.
#pragma once

#include <vector>

#include "base/compat.h"
#include "ops/number.h"

namespace megalodon::ops {

/// Room for one chunk of one stream in one layer. The steps of a chunk lie at 0, 1, …; those of the next one overwrite
/// them.
struct KeyValueCache {
  Tensor k_CGK, v_CGV;  // contiguous, float32 or bfloat16; on a GPU they begin at a multiple of 16 bytes
};

/// The caches of a layer for the rows of a batch, each of a stream of its own, and where those stand.
struct KeyValueRows {
  std::vector<KeyValueCache> caches;
  std::vector<int64_t> position;  // steps of the open chunk that are in the cache, 0 <= p < C
  /// Part of key_value_tables(), on the caches' device; undefined: made where it is needed. The kernel for a few steps
  /// reads it, and neither of the lists above.
  Tensor table_B3 = {};

  /// Steps that the largest of the caches has room for.
  int64_t room() const;
};

/// What a GPU's kernel reads of the rows of several layers: where their keys and values lie, and their positions.
/// [layers,B,3], int64, on the CPU. For the device of the caches, where layers then share one copy.
Tensor key_value_tables(const std::vector<KeyValueRows>& layers);

/// Of the next `steps` steps of each row inside their chunk, int64 [B,L], there. With a table nothing waits for a GPU.
Tensor step_positions(const KeyValueRows& rows, int64_t steps, torch::Device device);

/// Attends over what is cached and the new steps, chunk by chunk, and writes those of the chunk that is open in the end
/// behind the cached ones, rounded to the cache's dtype; so are all keys and values that are read, and any split of a
/// stream into calls gives the same. A row's y does not depend on the other rows. Throws Error for shapes that do not
/// fit. `precision` is of the products of more than a few steps, as in attention(); slope_H undefined: no bias.
Tensor cached_attention(const Tensor& q_BLHK, const Tensor& k_BLGK, const Tensor& v_BLGV, const KeyValueRows& rows,
                        const Tensor& slope_H, Precision precision);

}  // namespace megalodon::ops
