// The specification of chunk_attention: a visibility mask and plain masked softmax, for any device and dtype.
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/chunk_attention/chunk_attention_kernel.h"

namespace megalodon::ops::ref {
namespace {

/// 0 or 1 / (1 − p) for every probability, the same numbers as in the kernel.
Tensor dropout_mask(int64_t B, int64_t H, int64_t L, int64_t keys, double p, uint64_t key) {
  Tensor mask_BHLJ = torch::empty({B, H, L, keys}, torch::kFloat32);
  float* at = mask_BHLJ.data_ptr<float>();
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < L; ++i)
        for (int64_t j = 0; j < keys; ++j) *at++ = attention_dropout_factor(key, b, h, i, j, p);
  return mask_BHLJ;
}

}  // namespace

Tensor chunk_attention(const Tensor& q_BLHK, const Tensor& k_BLHK, const Tensor& v_BLHV,
                       const ChunkAttentionOptions& options) {
  const int64_t B = q_BLHK.size(0), L = q_BLHK.size(1), H = q_BLHK.size(2);
  const bool prior = options.prior_k_BTHK.defined();
  const int64_t T = prior ? options.prior_k_BTHK.size(1) : 0;
  const auto dtype = q_BLHK.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const auto heads_first = [&](const Tensor& x) { return x.to(dtype).transpose(1, 2); };  // [B,H,·,·]
  const Tensor q = heads_first(q_BLHK);
  const Tensor k = heads_first(prior ? torch::cat({options.prior_k_BTHK, k_BLHK}, 1) : k_BLHK);
  const Tensor v = heads_first(prior ? torch::cat({options.prior_v_BTHV, v_BLHV}, 1) : v_BLHV);

  const Tensor begin_BL = first_visible_key(B, L, T, options, q.device()).to(q.device());
  const Tensor key_J = torch::arange(T + L, begin_BL.options()), last_L = torch::arange(T, T + L, begin_BL.options());
  const Tensor visible_BLJ = (key_J >= begin_BL.unsqueeze(-1)) & (key_J <= last_L.unsqueeze(-1));
  const Tensor score = (options.scale * torch::matmul(q, k.transpose(2, 3)))
                           .masked_fill(~visible_BLJ.unsqueeze(1), -std::numeric_limits<double>::infinity());
  Tensor p = torch::softmax(score, -1);
  if (options.dropout > 0) p = p * dropout_mask(B, H, L, T + L, options.dropout, options.dropout_key).to(p.options());
  return torch::matmul(p, v).transpose(1, 2).contiguous().to(q_BLHK.scalar_type());
}

}  // namespace megalodon::ops::ref
