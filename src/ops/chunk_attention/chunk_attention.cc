// Checks, the visible interval of every query, dispatch, autograd and registration of chunk_attention.
#include "ops/chunk_attention/chunk_attention.h"

#include "base/check.h"
#include "ops/chunk_attention/chunk_attention_kernel.h"
#include "ops/registration.h"

namespace megalodon::ops {
namespace {

/// Calls step(b, t, position, fresh) in order, fresh where a chunk begins, and returns each row's next position. Rows
/// start at position_B inside their open chunk (undefined: at `otherwise`).
template <class Step>
Tensor walk_chunks(int64_t batch, int64_t length, int64_t chunk_size, const Tensor& starts_BL, const Tensor& position_B,
                   int64_t otherwise, const Step& step) {
  const auto row_major = [](const Tensor& t, torch::Dtype dtype) {
    return t.defined() ? t.to(torch::kCPU, dtype).contiguous() : Tensor();
  };
  const Tensor starts = row_major(starts_BL, torch::kBool);
  Tensor next_B = position_B.defined()
                      ? position_B.to(torch::kCPU, torch::kInt64, /*non_blocking=*/false, /*copy=*/true)
                      : torch::full({batch}, otherwise, torch::kInt64);
  const bool* start = starts.defined() ? starts.data_ptr<bool>() : nullptr;
  auto* next = next_B.data_ptr<int64_t>();
  for (int64_t b = 0; b < batch; ++b) {
    int64_t position = next[b];
    check(position >= 0 && (chunk_size == 0 || position < chunk_size),
          "[chunk_attention] position must be >= 0 and below chunk_size = {}, got {} in row {}", chunk_size, position,
          b);
    for (int64_t t = 0; t < length; ++t) {
      const bool fresh = (start && start[b * length + t]) || (chunk_size > 0 && position == chunk_size);
      if (fresh) position = 0;
      step(b, t, position++, fresh);
    }
    next[b] = chunk_size > 0 ? position % chunk_size : position;
  }
  return next_B;
}

void check_per_step(const char* name, const Tensor& t, torch::IntArrayRef sizes) {
  check(!t.defined() || t.sizes() == sizes, "[chunk_attention] {} must have shape {}, got {}", name,
        fmt::join(sizes, "x"), fmt::join(t.sizes(), "x"));
}

void check_like(const char* name, const Tensor& t, const Tensor& q, torch::IntArrayRef sizes) {
  check(t.sizes() == sizes, "[chunk_attention] {} must have shape {}, got {}", name, fmt::join(sizes, "x"),
        fmt::join(t.sizes(), "x"));
  check(t.scalar_type() == q.scalar_type() && t.device() == q.device(),
        "[chunk_attention] {} must have q's dtype and device, {} on {}, got {} on {}", name,
        torch::toString(q.scalar_type()), q.device().str(), torch::toString(t.scalar_type()), t.device().str());
}

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const ChunkAttentionOptions& o) {
  check(q.dim() == 4 && v.dim() == 4, "[chunk_attention] q must be [B,L,H,K] and v [B,L,H,V], got {} and {}",
        fmt::join(q.sizes(), "x"), fmt::join(v.sizes(), "x"));
  const auto dtype = q.scalar_type();
  check(dtype == torch::kFloat32 || dtype == torch::kFloat64 || dtype == torch::kBFloat16,
        "[chunk_attention] q must be float32, float64 or bfloat16, got {}", torch::toString(dtype));
  const int64_t B = q.size(0), L = q.size(1), H = q.size(2), K = q.size(3), V = v.size(3);
  check(B > 0 && L > 0 && H > 0 && K > 0 && V > 0, "[chunk_attention] no axis may be empty, got q {}, v {}",
        fmt::join(q.sizes(), "x"), fmt::join(v.sizes(), "x"));
  check_like("k", k, q, {B, L, H, K});
  check_like("v", v, q, {B, L, H, V});
  check(o.chunk_size >= 0, "[chunk_attention] chunk_size must be >= 0 (0: one chunk without end), got {}",
        o.chunk_size);
  check(o.dropout >= 0 && o.dropout < 1, "[chunk_attention] dropout must be in [0, 1), got {}", o.dropout);
  check_per_step("starts", o.starts_BL, {B, L});
  check_per_step("position", o.position_B, {B});
  check(o.prior_k_BTHK.defined() == o.prior_v_BTHV.defined(),
        "[chunk_attention] prior_k and prior_v must be given together, got prior_{} alone",
        o.prior_k_BTHK.defined() ? "k" : "v");
  if (!o.prior_k_BTHK.defined()) return;
  check(o.prior_k_BTHK.dim() == 4, "[chunk_attention] prior_k must be [B,T,H,K], got {}",
        fmt::join(o.prior_k_BTHK.sizes(), "x"));
  const int64_t T = o.prior_k_BTHK.size(1);
  check_like("prior_k", o.prior_k_BTHK, q, {B, T, H, K});
  check_like("prior_v", o.prior_v_BTHV, q, {B, T, H, V});
}

class ChunkAttentionFunction : public torch::autograd::Function<ChunkAttentionFunction> {
 public:
  /// The factors of the products are kept as those read them: float32, or bfloat16 with `pairs`.
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& prior_k, const Tensor& prior_v, const Tensor& begin, double scale, double dropout,
                        int64_t dropout_key, bool pairs) {
    const auto factor = [&](const Tensor& t) { return t.to(factor_type(pairs)).contiguous(); };
    const torch::autograd::variable_list inputs = {factor(q),       factor(k),       factor(v),
                                                   factor(prior_k), factor(prior_v), begin};
    Tensor y = torch::empty(v.sizes(), v.options());
    Tensor lse = torch::empty({q.size(0), q.size(2), q.size(1)}, q.options());
    chunk_attention_forward_cpu(args(inputs, y, lse, scale, dropout, dropout_key, pairs));
    torch::autograd::variable_list saved = inputs;
    saved.insert(saved.end(), {y, lse});
    ctx->save_for_backward(saved);
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["dropout"] = dropout;
    ctx->saved_data["dropout_key"] = dropout_key;
    ctx->saved_data["pairs"] = pairs;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivatives("chunk_attention");
    const auto saved = ctx->get_saved_variables();
    const bool pairs = ctx->saved_data["pairs"].toBool();
    const Tensor dy_factor = grads[0].to(factor_type(pairs)).contiguous(), delta = torch::empty_like(saved[7]);
    const Tensor dy = dy_factor.to(torch::kFloat32);  // of the same numbers: Σ_j p (dp − delta) has to vanish
    torch::autograd::variable_list out;
    for (int i = 0; i < 5; ++i) out.push_back(torch::empty_like(saved[i], dy.options()));
    const auto data = [](const Tensor& t) { return t.data_ptr<float>(); };
    chunk_attention_backward_cpu(
        {args(saved, saved[6], saved[7], ctx->saved_data["scale"].toDouble(), ctx->saved_data["dropout"].toDouble(),
              ctx->saved_data["dropout_key"].toInt(), pairs),
         data(dy), elements(dy_factor), data(out[0]), data(out[1]), data(out[2]), data(out[3]), data(out[4]),
         data(delta)});
    out.resize(10);  // begin, scale, dropout, its key and pairs have no gradient
    return out;
  }

 private:
  static torch::ScalarType factor_type(bool pairs) { return pairs ? torch::kBFloat16 : torch::kFloat32; }

  /// Of 32 bits each.
  static const float* elements(const Tensor& factor) { return static_cast<const float*>(factor.data_ptr()); }

  /// inputs: q, k, v, prior_k, prior_v, begin.
  static ChunkAttentionArgs args(const torch::autograd::variable_list& inputs, const Tensor& y, const Tensor& lse,
                                 double scale, double dropout, int64_t dropout_key, bool pairs) {
    const Tensor &q = inputs[0], &v = inputs[2], &prior_k = inputs[3];
    return {elements(q),
            elements(inputs[1]),
            elements(v),
            elements(prior_k),
            elements(inputs[4]),
            inputs[5].data_ptr<int64_t>(),
            y.data_ptr<float>(),
            lse.data_ptr<float>(),
            q.size(0),
            q.size(1),
            prior_k.size(1),
            q.size(2),
            q.size(3),
            v.size(3),
            static_cast<float>(scale),
            dropout,
            static_cast<uint64_t>(dropout_key),
            pairs};
  }
};

/// A few queries read every key once whatever its type: rounding all of them first would take longer.
bool use_pairs(const Tensor& q_BLHK, const Tensor& v_BLHV, const ChunkAttentionOptions& options) {
  constexpr int64_t kFew = 8;
  return options.precision == Precision::kBfloat16 && q_BLHK.size(1) > kFew && q_BLHK.size(3) % 2 == 0 &&
         v_BLHV.size(3) % 2 == 0 && options.scale == 1 && chunk_attention_has_pairs();
}

Tensor chunk_attention_op(const Tensor& q, const Tensor& k, const Tensor& v, int64_t chunk_size, double scale,
                          const OptionalTensor& starts, const OptionalTensor& prior_k, const OptionalTensor& prior_v,
                          const OptionalTensor& position, double dropout, int64_t dropout_key) {
  return chunk_attention(q, k, v,
                         {chunk_size, scale, or_undefined(starts), or_undefined(prior_k), or_undefined(prior_v),
                          or_undefined(position), dropout, static_cast<uint64_t>(dropout_key), Precision::kFloat32});
}

}  // namespace

ChunkPositions chunk_positions(int64_t batch, int64_t length, int64_t chunk_size, const Tensor& starts_BL,
                               const Tensor& position_B) {
  check_per_step("starts", starts_BL, {batch, length});
  check_per_step("position", position_B, {batch});
  Tensor position_BL = torch::empty({batch, length}, torch::kInt64);
  auto* out = position_BL.data_ptr<int64_t>();
  const Tensor next_B =
      walk_chunks(batch, length, chunk_size, starts_BL, position_B, 0,
                  [&](int64_t b, int64_t t, int64_t position, bool) { out[b * length + t] = position; });
  return {position_BL, next_B};
}

Tensor first_visible_key(int64_t batch, int64_t length, int64_t prior, const ChunkAttentionOptions& o) {
  Tensor begin_BL = torch::empty({batch, length}, torch::kInt64);
  auto* begin = begin_BL.data_ptr<int64_t>();
  walk_chunks(batch, length, o.chunk_size, o.starts_BL, o.position_B, prior,
              [&](int64_t b, int64_t t, int64_t position, bool fresh) {
                int64_t& first = begin[b * length + t];
                first = t > 0 && !fresh ? begin[b * length + t - 1] : prior + t - position;
                check(first >= 0,
                      "[chunk_attention] position of row {} must be at most the number of prior keys, {}, got {}", b,
                      prior, position);
              });
  return begin_BL;
}

Tensor chunk_attention(const Tensor& q_BLHK, const Tensor& k_BLHK, const Tensor& v_BLHV,
                       const ChunkAttentionOptions& options) {
  check_inputs(q_BLHK, k_BLHK, v_BLHV, options);
  if (q_BLHK.scalar_type() == torch::kBFloat16) {
    const auto wide = [](const Tensor& t) { return t.defined() ? t.to(torch::kFloat32) : t; };
    ChunkAttentionOptions wide_options = options;
    wide_options.prior_k_BTHK = wide(options.prior_k_BTHK);
    wide_options.prior_v_BTHV = wide(options.prior_v_BTHV);
    return chunk_attention(wide(q_BLHK), wide(k_BLHK), wide(v_BLHV), wide_options).to(torch::kBFloat16);
  }
  if (!use_cpu_kernel(q_BLHK)) return ref::chunk_attention(q_BLHK, k_BLHK, v_BLHV, options);
  const bool prior = options.prior_k_BTHK.defined();
  const Tensor prior_k = prior ? options.prior_k_BTHK : k_BLHK.detach().slice(1, 0, 0);
  const Tensor prior_v = prior ? options.prior_v_BTHV : v_BLHV.detach().slice(1, 0, 0);
  const Tensor begin_BL = first_visible_key(q_BLHK.size(0), q_BLHK.size(1), prior_k.size(1), options);
  return ChunkAttentionFunction::apply(q_BLHK, k_BLHK, v_BLHV, prior_k, prior_v, begin_BL, options.scale,
                                       options.dropout, static_cast<int64_t>(options.dropout_key),
                                       use_pairs(q_BLHK, v_BLHV, options));
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def(
      "chunk_attention(Tensor q, Tensor k, Tensor v, int chunk_size, float scale=1.0, Tensor? starts=None, "
      "Tensor? prior_k=None, Tensor? prior_v=None, Tensor? position=None, float dropout=0.0, int dropout_key=0) -> "
      "Tensor",
      &chunk_attention_op);
}

}  // namespace megalodon::ops
