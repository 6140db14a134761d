// Single-head attention with a bias that depends on the distance of key and query, and scores other than softmax's, as
// Mega's gated attention wants it (Ma et al., 2023, sections 3.2 and 3.3):
//
//   softmax   w_ij = softmax_j( q_i·k_j/√Z + b_(j−i) )
//   laplace   w_ij = f( q_i·k_j/n_i + b_(j−i) ),  f(x) = (1 + erf((x − 0.707107) / (0.282095 √2))) / 2
//   relu2     the same with f(x) = max(x, 0)²
//   y_i = Σ_j w_ij v_j        over the visible j; n_i is the number of keys that i sees
//
// Causal: those of the same chunk and document with j <= i. Otherwise: all of the chunk. Keys under padding are not
// seen; a softmax that would see nothing at all ignores the padding. A causal n_i counts padding too.
//
// Shapes: q [B,L,Z] · k [B,J,Z] · v [B,J,E] · y [B,L,E]; J = L unless there is one chunk and nothing is causal
// (cross-attention). Runs as a composition of tensor operators, tile by tile of queries: scores are never held for more
// than a tile, and the backward pass of several tiles computes them again.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

enum class Scores { kSoftmax, kLaplace, kRelu2 };

/// f of laplace and relu2, elementwise.
Tensor score_function(Scores scores, const Tensor& x);

/// Of a table of biases t [2M−1] at the distances −(M−1) … M−1: the matrix b_ij = t[M − 1 + j − i] for `rows` i from
/// `row` and `columns` j from `column`. Throws Error where the table does not reach.
Tensor offset_matrix(const Tensor& bias_O, int64_t row, int64_t rows, int64_t column, int64_t columns);

struct RelativeAttentionOptions {
  Scores scores = Scores::kSoftmax;
  bool causal = true;
  int64_t chunk_size = 0;   // 0: no chunks
  Tensor bias_O;            // table for offset_matrix(); undefined: none
  Tensor padding_BJ;        // bool, true at keys that nobody sees; undefined: none
  int64_t first_query = 0;  // where cross-attention counts the queries from, for the bias; 0 where causal
  // Of causal attention, as in chunk_attention().
  Tensor starts_BL, prior_k_BTZ, prior_v_BTE, position_B;
  double dropout = 0.0;  // on the weights, inverted
  uint64_t dropout_key = 0;
};

/// Throws Error for shapes and options that do not go together.
Tensor relative_attention(const Tensor& q_BLZ, const Tensor& k_BJZ, const Tensor& v_BJE,
                          const RelativeAttentionOptions& options);

}  // namespace megalodon::ops
