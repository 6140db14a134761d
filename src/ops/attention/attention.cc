// Checks of attention, and how chunk_attention() serves it.
#include "ops/attention/attention.h"

#include "base/check.h"
#include "ops/chunk_attention/chunk_attention.h"

namespace megalodon::ops {
namespace {

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o) {
  check(q.dim() == 4 && k.dim() == 4 && v.dim() == 4 && q.numel() > 0 && k.numel() > 0 && v.numel() > 0,
        "[attention] expected q [B,L,H,K], k [B,J,G,K] and v [B,J,G,V], none empty, got {}, {} and {}",
        c10::str(q.sizes()), c10::str(k.sizes()), c10::str(v.sizes()));
  check(k.size(0) == q.size(0) && k.size(3) == q.size(3) && v.sizes().slice(0, 3) == k.sizes().slice(0, 3) &&
            q.size(2) % k.size(2) == 0,
        "[attention] k and v must fit q {} in batch, width and heads (q's are a multiple of theirs), got {} and {}",
        c10::str(q.sizes()), c10::str(k.sizes()), c10::str(v.sizes()));
  check(!o.slope_H.defined() || o.slope_H.sizes() == torch::IntArrayRef{q.size(2)},
        "[attention] expected a slope for each of {} heads, got {}", q.size(2), c10::str(o.slope_H.sizes()));
  const bool has_prior = o.prior_k_BTGK.defined();
  const std::vector<int64_t> keys = {k.size(0), k.size(1)};
  check(!o.padding_BJ.defined() || (o.padding_BJ.sizes() == keys && !has_prior),
        "[attention] padding must be of the {} keys of a whole sequence, got {}", c10::str(keys),
        c10::str(o.padding_BJ.sizes()));
  check(has_prior == o.prior_v_BTGV.defined(), "[attention] prior_k and prior_v must be given together");
  check(!o.causal || k.size(1) == q.size(1), "[attention] causal queries must be as many as keys, got {} and {}",
        q.size(1), k.size(1));
  check(o.causal || (!has_prior && !o.starts_BL.defined() && o.chunk_size == 0 && o.window == 0),
        "[attention] chunks, windows, documents and priors are of causal attention");
}

/// The bias as one more feature: 1 in the queries, slope · j in the keys, j counted back from the last key.
struct WithBias {
  explicit WithBias(const AttentionOptions& options, int64_t keys)
      : slope_H(options.slope_H), step_J(torch::arange(1 - keys, 1, torch::kFloat32)) {}
  Tensor query(const Tensor& q_BLHK) const { return torch::constant_pad_nd(q_BLHK, {0, 1}, 1); }
  /// Of keys `begin` …
  Tensor key(const Tensor& k_BJHK, int64_t begin) const {
    const int64_t B = k_BJHK.size(0), J = k_BJHK.size(1), H = k_BJHK.size(2);
    const Tensor bias_JH = step_J.narrow(0, begin, J).to(k_BJHK.options()).unsqueeze(1) * slope_H.to(k_BJHK.options());
    return torch::cat({k_BJHK, bias_JH.view({1, J, H, 1}).expand({B, J, H, 1})}, 3);
  }

  Tensor slope_H, step_J;
};

}  // namespace

Tensor attention(const Tensor& q_BLHK, const Tensor& k_BJGK, const Tensor& v_BJGV, const AttentionOptions& options) {
  check_inputs(q_BLHK, k_BJGK, v_BJGV, options);
  if (!options.causal || options.padding_BJ.defined()) return ref::attention(q_BLHK, k_BJGK, v_BJGV, options);
  const bool biased = options.slope_H.defined(), has_prior = options.prior_k_BTGK.defined();
  const int64_t groups = q_BLHK.size(2) / k_BJGK.size(2);
  const auto wide = [&](const Tensor& t) {
    return biased && t.scalar_type() == torch::kBFloat16 ? t.to(torch::kFloat32) : t;
  };
  const auto of_heads = [&](const Tensor& t) {
    return t.defined() && groups > 1 ? wide(t).repeat_interleave(groups, 2) : wide(t);
  };
  Tensor q = options.scale == 1 ? wide(q_BLHK) : wide(q_BLHK) * options.scale, k = of_heads(k_BJGK);
  ChunkAttentionOptions chunks;
  chunks.chunk_size = options.chunk_size, chunks.window = options.window;
  chunks.starts_BL = options.starts_BL, chunks.position_B = options.position_B;
  chunks.dropout = options.dropout, chunks.dropout_key = options.dropout_key;
  chunks.precision = biased ? Precision::kFloat32 : options.precision;
  if (has_prior)
    chunks.prior_k_BTHK = of_heads(options.prior_k_BTGK), chunks.prior_v_BTHV = of_heads(options.prior_v_BTGV);
  if (biased) {
    const int64_t prior = has_prior ? options.prior_k_BTGK.size(1) : 0;
    const WithBias with_bias(options, prior + k.size(1));
    q = with_bias.query(q), k = with_bias.key(k, prior);
    if (has_prior) chunks.prior_k_BTHK = with_bias.key(chunks.prior_k_BTHK, 0);
  }
  return chunk_attention(q, k, of_heads(v_BJGV), chunks).to(q_BLHK.scalar_type());
}

}  // namespace megalodon::ops
