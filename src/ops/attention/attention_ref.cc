// The specification of attention: masks and biases, then plain masked softmax, for any device and dtype.
#include "ops/attention/attention.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/dropout/dropout.h"

namespace megalodon::ops::ref {
namespace {

/// bool, [B,1,L,J] or what broadcasts to it; undefined where all keys are visible.
Tensor visible(int64_t batch, int64_t length, int64_t prior, const AttentionOptions& options, torch::Device device) {
  Tensor visible_BHLJ;
  if (options.causal) {
    ChunkAttentionOptions chunks;
    chunks.chunk_size = options.chunk_size, chunks.window = options.window;
    chunks.starts_BL = options.starts_BL, chunks.position_B = options.position_B;
    const Tensor begin_BL1 = first_visible_key(batch, length, prior, chunks, device).to(device).unsqueeze(-1);
    const Tensor key_J = torch::arange(prior + length, begin_BL1.options());
    const Tensor last_L1 = torch::arange(prior, prior + length, begin_BL1.options()).unsqueeze(-1);
    visible_BHLJ = ((key_J >= begin_BL1) & (key_J <= last_L1)).unsqueeze(1);
  } else if (options.chunk_size > 0) {
    const Tensor chunk_L = torch::arange(length, torch::TensorOptions().dtype(torch::kInt64).device(device))
                               .div(options.chunk_size, "floor");
    visible_BHLJ = (chunk_L.unsqueeze(1) == chunk_L).view({1, 1, length, length});
  }
  if (!options.padding_BJ.defined()) return visible_BHLJ;
  const Tensor unpadded_B11J = ~options.padding_BJ.to(device, torch::kBool).unsqueeze(1).unsqueeze(1);
  return visible_BHLJ.defined() ? visible_BHLJ & unpadded_B11J : unpadded_B11J;
}

}  // namespace

Tensor attention(const Tensor& q_BLHK, const Tensor& k_BJGK, const Tensor& v_BJGV, const AttentionOptions& options) {
  const bool has_prior = options.prior_k_BTGK.defined();
  const int64_t prior = has_prior ? options.prior_k_BTGK.size(1) : 0;
  const auto dtype = q_BLHK.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const int64_t groups = q_BLHK.size(2) / k_BJGK.size(2);
  const auto heads_first = [&](const Tensor& x) { return x.to(dtype).transpose(1, 2); };  // [B,·,J,·]
  const auto of_heads = [&](const Tensor& old, const Tensor& current) {
    return heads_first(has_prior ? torch::cat({old, current}, 1) : current).repeat_interleave(groups, 1);
  };
  const Tensor k = of_heads(options.prior_k_BTGK, k_BJGK), v = of_heads(options.prior_v_BTGV, v_BJGV);
  Tensor score_BHLJ = options.scale * torch::matmul(heads_first(q_BLHK), k.transpose(2, 3));
  if (options.slope_H.defined()) {
    const int64_t keys = k.size(2);
    const Tensor slope_H11 = options.slope_H.to(score_BHLJ.options()).view({-1, 1, 1});
    score_BHLJ = score_BHLJ + slope_H11 * torch::arange(1 - keys, 1, score_BHLJ.options());
  }
  const Tensor seen = visible(q_BLHK.size(0), q_BLHK.size(1), prior, options, q_BLHK.device());
  // A finite number, for what sees no key at all (padding, of which nobody reads the result) to be 0 and not NaN.
  if (seen.defined()) score_BHLJ = score_BHLJ.masked_fill(~seen, -1e30);
  Tensor p_BHLJ = torch::softmax(score_BHLJ, -1);
  if (seen.defined()) p_BHLJ = p_BHLJ.masked_fill(~seen, 0);
  if (options.dropout > 0) p_BHLJ = ops::dropout(p_BHLJ, options.dropout, options.dropout_key);
  return torch::matmul(p_BHLJ, v).transpose(1, 2).contiguous().to(q_BLHK.scalar_type());
}

}  // namespace megalodon::ops::ref
