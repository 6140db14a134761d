// Checks of attention, and how flash attention or chunk_attention() serves it.
#include "ops/attention/attention.h"

#include <utility>

#include "base/check.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/chunk_attention/flash_attention.h"

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
  check((!o.causal && o.chunk_size == 0) || k.size(1) == q.size(1),
        "[attention] queries must be as many as keys where they are causal or in chunks, got {} and {}", q.size(1),
        k.size(1));
  check(o.causal || (!has_prior && !o.starts_BL.defined() && o.window == 0),
        "[attention] windows, documents and priors are of causal attention");
}

constexpr double kNever = -1e30;  // of a key that nobody sees: finite, for what sees none to be 0 and not NaN

/// What is added to the scores of a key, as one more feature: 1 in the queries, in the keys slope · j, j counted back
/// from the last, or kNever. Where it makes their number odd and products of bfloat16 want pairs, another one of 0.
class Bias {
 public:
  Bias(const AttentionOptions& options, int64_t keys, int64_t features, Precision precision)
      : slope_H_(options.slope_H),
        padding_BJ_(options.padding_BJ),
        step_J_(torch::arange(1 - keys, 1, torch::kFloat32)),
        zeros_(precision == Precision::kBfloat16 && features % 2 == 0 ? 1 : 0) {}

  Tensor query(const Tensor& q_BLHK) const {
    return with(q_BLHK, torch::ones(q_BLHK.sizes().slice(0, 3), q_BLHK.options()));
  }

  /// Of keys `begin` …
  Tensor key(const Tensor& k_BJHK, int64_t begin) const {
    Tensor bias_BJH = torch::zeros(k_BJHK.sizes().slice(0, 3), k_BJHK.options());
    if (slope_H_.defined())
      bias_BJH = bias_BJH + step_J_.narrow(0, begin, k_BJHK.size(1)).to(k_BJHK.options()).unsqueeze(1) *
                                slope_H_.to(k_BJHK.options());
    if (padding_BJ_.defined()) bias_BJH = bias_BJH.masked_fill(padding_BJ_.to(k_BJHK.device()).unsqueeze(2), kNever);
    return with(k_BJHK, bias_BJH);
  }

  /// As many keys as there are queries, of no weight.
  Tensor never(const Tensor& q_BLHK) const {
    return with(torch::zeros(q_BLHK.sizes(), q_BLHK.options()),
                torch::full(q_BLHK.sizes().slice(0, 3), kNever, q_BLHK.options()));
  }

 private:
  Tensor with(const Tensor& x_BJHK, const Tensor& feature_BJH) const {
    return torch::constant_pad_nd(torch::cat({x_BJHK, feature_BJH.unsqueeze(3)}, 3), {0, zeros_}, 0);
  }

  Tensor slope_H_, padding_BJ_, step_J_;
  int64_t zeros_;
};

/// Each chunk as a row of its own, [B·chunks,C,..], the last one filled up with padding.
Tensor attention_in_chunks(const Tensor& q_BLHK, const Tensor& k_BLGK, const Tensor& v_BLGV,
                           const AttentionOptions& options) {
  const int64_t B = q_BLHK.size(0), L = q_BLHK.size(1), C = options.chunk_size, chunks = (L + C - 1) / C;
  const int64_t missing = chunks * C - L;
  const auto fold = [&](const Tensor& t) {
    return torch::constant_pad_nd(t, {0, 0, 0, 0, 0, missing}).reshape({B * chunks, C, t.size(2), t.size(3)});
  };
  AttentionOptions of_chunk = options;
  of_chunk.chunk_size = 0;
  if (options.padding_BJ.defined() || missing > 0) {
    const Tensor padding_BL =
        options.padding_BJ.defined() ? options.padding_BJ : torch::zeros({B, L}, q_BLHK.options().dtype(torch::kBool));
    of_chunk.padding_BJ = torch::constant_pad_nd(padding_BL, {0, missing}, true).reshape({B * chunks, C});
  }
  const Tensor y = attention(fold(q_BLHK), fold(k_BLGK), fold(v_BLGV), of_chunk);
  return y.view({B, chunks * C, y.size(2), y.size(3)}).narrow(1, 0, L);
}

}  // namespace

Tensor attention(const Tensor& q_BLHK, const Tensor& k_BJGK, const Tensor& v_BJGV, const AttentionOptions& options) {
  check_inputs(q_BLHK, k_BJGK, v_BJGV, options);
  if (!options.causal && options.chunk_size > 0 && options.chunk_size < q_BLHK.size(1))
    return attention_in_chunks(q_BLHK, k_BJGK, v_BJGV, options);
  const bool sloped = options.slope_H.defined(), biased = sloped || options.padding_BJ.defined() || !options.causal;
  const bool has_prior = options.prior_k_BTGK.defined();
  const int64_t groups = q_BLHK.size(2) / k_BJGK.size(2);
  const auto wide = [&](const Tensor& t) {
    return sloped && t.scalar_type() == torch::kBFloat16 ? t.to(torch::kFloat32) : t;
  };
  const auto of_heads = [&](const Tensor& t) {  // repeat_interleave() may wait for a GPU
    return groups > 1 ? wide(t).unsqueeze(3).expand({-1, -1, -1, groups, -1}).flatten(2, 3) : wide(t);
  };
  Tensor q = wide(q_BLHK), k = of_heads(k_BJGK), v = of_heads(v_BJGV);
  ChunkAttentionOptions chunks;
  chunks.chunk_size = options.causal ? options.chunk_size : 0, chunks.window = options.window;
  chunks.starts_BL = options.starts_BL, chunks.position_B = options.position_B;
  chunks.dropout = options.dropout, chunks.dropout_key = options.dropout_key;
  chunks.precision = sloped ? Precision::kFloat32 : options.precision;
  if (has_prior)
    chunks.prior_k_BTHK = of_heads(options.prior_k_BTGK), chunks.prior_v_BTHV = of_heads(options.prior_v_BTGV);
  if (!sloped && !options.padding_BJ.defined()) {
    chunks.scale = options.scale;
    if (const auto y = try_flash_attention(q, k, v, chunks, options.causal)) return y->to(q_BLHK.scalar_type());
  }
  // What adds to the scores is not scaled.
  chunks.scale = 1;
  if (options.scale != 1) q = q * options.scale;
  if (options.padding_BJ.defined()) v = v.masked_fill(options.padding_BJ.to(v.device()).unsqueeze(2).unsqueeze(3), 0);
  if (biased) {
    const int64_t prior = has_prior ? options.prior_k_BTGK.size(1) : 0;
    const Bias bias(options, prior + k.size(1), q.size(3), chunks.precision);
    if (has_prior) chunks.prior_k_BTHK = bias.key(chunks.prior_k_BTHK, 0);
    k = bias.key(k, prior);
    if (!options.causal) {
      // All keys are prior ones, which every query sees; behind them stand as many as queries, of no weight.
      chunks.prior_k_BTHK = std::exchange(k, bias.never(q)), chunks.prior_v_BTHV = v;
      v = torch::zeros({q.size(0), q.size(1), q.size(2), v.size(3)}, v.options());
    }
    q = bias.query(q);
  }
  return chunk_attention(q, k, v, chunks).to(q_BLHK.scalar_type());
}

}  // namespace megalodon::ops
