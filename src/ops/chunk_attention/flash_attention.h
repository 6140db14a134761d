// Attention by PyTorch's flash attention (Dao, 2023), which is made for heads as narrow as a Transformer's. In its
// place chunk_attention() has its own products and softmax, for any widths.
#pragma once

#include <optional>

#include "ops/chunk_attention/chunk_attention.h"

namespace megalodon::ops {

/// Whether it has all that is asked for: sequences from their beginning, neither documents nor windows nor dropout,
/// K = V up to 256, a multiple of 8, and no more than 65,535 chunks in all.
bool flash_attention_serves(const Tensor& q_BLHK, const Tensor& v_BLHV, const ChunkAttentionOptions& options);

/// Of what it serves, on any device and of any type. Not causal: k and v may be of another length, of one chunk. The
/// same inputs have the same bits each time, gradients too.
Tensor flash_attention(const Tensor& q_BLHK, const Tensor& k_BJHK, const Tensor& v_BJHV, int64_t chunk_size,
                       double scale, bool causal);

/// Where it is the faster way: on a GPU with PyTorch 2.1 or later, of what it serves in bfloat16. y is of v's type.
std::optional<Tensor> try_flash_attention(const Tensor& q_BLHK, const Tensor& k_BJHK, const Tensor& v_BJHV,
                                          const ChunkAttentionOptions& options, bool causal);

}  // namespace megalodon::ops
