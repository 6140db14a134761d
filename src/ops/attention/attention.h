// Softmax attention as Transformers use it, in one pass over a sequence or a stretch of a stream:
//
//   y_i = Σ_j softmax_j( scale · q_i·k_j + bias_j ) v_j        over the visible j
//
// Grouped heads: query head h reads key and value head floor(h / (H/G)). ALiBi (Press et al., 2022): bias_j = slope_h ·
// j, which differs from the published slope_h · (j − i) by a constant of the row, so that softmax does not see it. A
// query that sees no key gets 0.
//
// Shapes: q [B,L,H,K] · k [B,J,G,K] · v [B,J,G,V] · y [B,L,H,V], H a multiple of G; causal: J = L.
#pragma once

#include "base/compat.h"
#include "ops/number.h"

namespace megalodon::ops {

struct AttentionOptions {
  bool causal = true;  // otherwise a query sees every key, or every one of its chunk
  double scale = 1.0;
  Tensor slope_H;          // ALiBi; undefined: no bias
  Tensor padding_BJ;       // bool, true at keys that nobody sees; undefined: none
  int64_t chunk_size = 0;  // as in chunk_attention()
  // Of causal attention, as in chunk_attention().
  int64_t window = 0;
  Tensor starts_BL;
  Tensor prior_k_BTGK, prior_v_BTGV;
  Tensor position_B;
  double dropout = 0.0;
  uint64_t dropout_key = 0;
  Precision precision = Precision::kFloat32;  // of products without ALiBi: what that adds to scores, bfloat16 does
                                              // not hold
};

/// Runs on flash attention where that is there and has what is asked for, else on chunk_attention(). Throws Error for
/// shapes and options that do not go together.
Tensor attention(const Tensor& q_BLHK, const Tensor& k_BJGK, const Tensor& v_BJGV, const AttentionOptions& options);

namespace ref {
Tensor attention(const Tensor& q_BLHK, const Tensor& k_BJGK, const Tensor& v_BJGV, const AttentionOptions& options);
}  // namespace ref

}  // namespace megalodon::ops
