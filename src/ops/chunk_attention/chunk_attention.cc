// Checks, the visible interval of every query, dispatch, autograd and registration of chunk_attention.
#include "ops/chunk_attention/chunk_attention.h"

#include <algorithm>

#include "base/check.h"
#include "ops/chunk_attention/chunk_attention_kernel.h"
#include "ops/chunk_attention/flash_attention.h"
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

bool on_gpu(const Tensor& t) {
  return t.defined() && t.is_cuda();
}

/// The GPU on which something is asked for or given; else the CPU.
torch::Device device_of_positions(torch::Device device, const Tensor& starts_BL, const Tensor& position_B) {
  if (device.is_cuda()) return device;
  return on_gpu(starts_BL) ? starts_BL.device() : on_gpu(position_B) ? position_B.device() : torch::kCPU;
}

/// The position inside its chunk of every step [B,L], as walk_chunks() finds them, without asking a GPU for anything:
/// steps since the last start, or since the beginning of the row's open chunk, modulo the chunk.
Tensor positions_in_closed_form(int64_t batch, int64_t length, int64_t chunk_size, const Tensor& starts_BL,
                                const Tensor& position_B, int64_t otherwise, torch::Device device) {
  check(position_B.defined() || chunk_size == 0 || otherwise < chunk_size,
        "[chunk_attention] position must be >= 0 and below chunk_size = {}, got {}", chunk_size, otherwise);
  const auto options = torch::TensorOptions().dtype(torch::kInt64).device(device);
  const Tensor first_B1 =
      position_B.defined() ? -position_B.to(options).unsqueeze(1) : torch::full({batch, 1}, -otherwise, options);
  const Tensor step_L = torch::arange(length, options);
  Tensor since_BL = first_B1.expand({batch, length});
  if (starts_BL.defined()) {
    const Tensor start_BL = torch::where(starts_BL.to(device, torch::kBool), step_L, torch::full({}, -1, options));
    const Tensor last_BL = std::get<0>(torch::cummax(start_BL, 1));
    since_BL = torch::where(last_BL >= 0, last_BL, since_BL);
  }
  const Tensor position_BL = (step_L - since_BL).contiguous();
  return chunk_size > 0 ? position_BL.remainder(chunk_size) : position_BL;
}

/// The first visible keys [B,L] on an axis with `prior` old ones, but none before a sliding window.
Tensor in_window(const Tensor& begin_BL, int64_t prior, int64_t window) {
  if (window == 0) return begin_BL;
  const int64_t first = prior + 1 - window;
  return torch::maximum(begin_BL, torch::arange(first, first + begin_BL.size(1), begin_BL.options()));
}

bool is_narrow(const Tensor& t) {
  return t.scalar_type() == torch::kBFloat16;
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
  check(o.window >= 0, "[chunk_attention] window must be >= 0 (0: none), got {}", o.window);
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

/// What the kernels are told besides tensors.
struct Settings {
  double scale, dropout;
  int64_t dropout_key, window, phase;
  bool narrow;  // factors of the products are bfloat16

  torch::ScalarType factor_type() const { return narrow ? torch::kBFloat16 : torch::kFloat32; }
  void save(torch::autograd::AutogradContext* ctx) const {
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["dropout"] = dropout;
    ctx->saved_data["dropout_key"] = dropout_key;
    ctx->saved_data["window"] = window;
    ctx->saved_data["phase"] = phase;
    ctx->saved_data["narrow"] = narrow;
  }
  static Settings saved(torch::autograd::AutogradContext* ctx) {
    const auto number = [&](const char* name) { return ctx->saved_data[name].toInt(); };
    return {ctx->saved_data["scale"].toDouble(),
            ctx->saved_data["dropout"].toDouble(),
            number("dropout_key"),
            number("window"),
            number("phase"),
            ctx->saved_data["narrow"].toBool()};
  }
};

class ChunkAttentionFunction : public torch::autograd::Function<ChunkAttentionFunction> {
 public:
  /// The factors of the products are kept as those read them.
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& prior_k, const Tensor& prior_v, const Tensor& begin, const Settings& settings) {
    const auto factor = [&](const Tensor& t) { return t.to(settings.factor_type()).contiguous(); };
    const torch::autograd::variable_list inputs = {factor(q),       factor(k),       factor(v),
                                                   factor(prior_k), factor(prior_v), begin};
    Tensor y = torch::empty(v.sizes(), v.options());
    Tensor lse = torch::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(torch::kFloat32));
    run_kernel(q, MEGALODON_KERNELS(chunk_attention_forward), args(inputs, y, lse, settings));
    torch::autograd::variable_list saved = inputs;
    saved.insert(saved.end(), {y, lse});
    ctx->save_for_backward(saved);
    settings.save(ctx);
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivatives("chunk_attention");
    const auto saved = ctx->get_saved_variables();
    const Tensor &y = saved[6], &lse = saved[7];
    const Settings settings = Settings::saved(ctx);
    const Tensor dy_factor = grads[0].to(settings.factor_type()).contiguous(), delta = torch::empty_like(lse);
    // Of the same numbers: Σ_j p (dp − delta) has to vanish. The GPU reads the factor itself.
    const Tensor dy = y.is_cpu() ? dy_factor.to(torch::kFloat32) : Tensor();
    torch::autograd::variable_list out;
    for (int i = 0; i < 5; ++i) out.push_back(torch::empty_like(saved[i], y.options()));
    run_kernel(y, MEGALODON_KERNELS(chunk_attention_backward),
               {args(saved, y, lse, settings), dy.defined() ? dy.data_ptr<float>() : nullptr, dy_factor.data_ptr(),
                number_type(y), out[0].data_ptr(), out[1].data_ptr(), out[2].data_ptr(), out[3].data_ptr(),
                out[4].data_ptr(), delta.data_ptr<float>()});
    out.resize(7);  // begin and the settings have no gradient
    return out;
  }

 private:
  /// inputs: q, k, v, prior_k, prior_v, begin.
  static ChunkAttentionArgs args(const torch::autograd::variable_list& inputs, const Tensor& y, const Tensor& lse,
                                 const Settings& settings) {
    const Tensor &q = inputs[0], &v = inputs[2], &prior_k = inputs[3];
    return {q.data_ptr(),
            inputs[1].data_ptr(),
            v.data_ptr(),
            prior_k.data_ptr(),
            inputs[4].data_ptr(),
            number_type(q),
            inputs[5].data_ptr<int64_t>(),
            y.data_ptr(),
            number_type(y),
            lse.data_ptr<float>(),
            q.size(0),
            q.size(1),
            prior_k.size(1),
            q.size(2),
            q.size(3),
            v.size(3),
            static_cast<float>(settings.scale),
            settings.dropout,
            static_cast<uint64_t>(settings.dropout_key),
            settings.window,
            settings.phase};
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
                               const Tensor& position_B, torch::Device device) {
  check_per_step("starts", starts_BL, {batch, length});
  check_per_step("position", position_B, {batch});
  device = device_of_positions(device, starts_BL, position_B);
  if (device.is_cuda() && length > 0) {
    const Tensor position_BL = positions_in_closed_form(batch, length, chunk_size, starts_BL, position_B, 0, device);
    const Tensor next_B = position_BL.select(1, -1) + 1;
    return {position_BL, chunk_size > 0 ? next_B.remainder(chunk_size) : next_B};
  }
  Tensor position_BL = torch::empty({batch, length}, torch::kInt64);
  auto* out = position_BL.data_ptr<int64_t>();
  const Tensor next_B =
      walk_chunks(batch, length, chunk_size, starts_BL, position_B, 0,
                  [&](int64_t b, int64_t t, int64_t position, bool) { out[b * length + t] = position; });
  return {position_BL, next_B};
}

Tensor first_visible_key(int64_t batch, int64_t length, int64_t prior, const ChunkAttentionOptions& o,
                         torch::Device device) {
  device = device_of_positions(device, o.starts_BL, o.position_B);
  if (device.is_cuda()) {
    const Tensor position_BL =
        positions_in_closed_form(batch, length, o.chunk_size, o.starts_BL, o.position_B, prior, device);
    return in_window(torch::arange(prior, prior + length, position_BL.options()) - position_BL, prior, o.window);
  }
  Tensor begin_BL = torch::empty({batch, length}, torch::kInt64);
  auto* begin = begin_BL.data_ptr<int64_t>();
  walk_chunks(batch, length, o.chunk_size, o.starts_BL, o.position_B, prior,
              [&](int64_t b, int64_t t, int64_t position, bool fresh) {
                int64_t& first = begin[b * length + t];
                first = t > 0 && !fresh ? begin[b * length + t - 1] : prior + t - position;
                check(first >= 0 || (o.window > 0 && o.window - 1 <= prior),
                      "[chunk_attention] position of row {} must be at most the number of prior keys, {}, got {}", b,
                      prior, position);
              });
  return in_window(begin_BL, prior, o.window);
}

Tensor chunk_attention(const Tensor& q_BLHK, const Tensor& k_BLHK, const Tensor& v_BLHV,
                       const ChunkAttentionOptions& options) {
  check_inputs(q_BLHK, k_BLHK, v_BLHV, options);
  if (const auto y = try_flash_attention(q_BLHK, k_BLHK, v_BLHV, options, /*causal=*/true)) return *y;
  const bool gpu = q_BLHK.is_cuda() && use_kernel_of_any_type(q_BLHK);
  if (is_narrow(q_BLHK) && !gpu) {
    const auto wide = [](const Tensor& t) { return t.defined() ? t.to(torch::kFloat32) : t; };
    ChunkAttentionOptions wide_options = options;
    wide_options.prior_k_BTHK = wide(options.prior_k_BTHK);
    wide_options.prior_v_BTHV = wide(options.prior_v_BTHV);
    return chunk_attention(wide(q_BLHK), wide(k_BLHK), wide(v_BLHV), wide_options).to(torch::kBFloat16);
  }
  if (!gpu && !use_kernel(q_BLHK)) return ref::chunk_attention(q_BLHK, k_BLHK, v_BLHV, options);
  const bool prior = options.prior_k_BTHK.defined();
  const Tensor prior_k = prior ? options.prior_k_BTHK : k_BLHK.detach().slice(1, 0, 0);
  const Tensor prior_v = prior ? options.prior_v_BTHV : v_BLHV.detach().slice(1, 0, 0);
  const int64_t B = q_BLHK.size(0), L = q_BLHK.size(1), T = prior_k.size(1);
  const Tensor begin_BL = first_visible_key(B, L, T, options, q_BLHK.device()).to(q_BLHK.device());
  const bool narrow =
      gpu ? is_narrow(q_BLHK) || options.precision == Precision::kBfloat16 : use_pairs(q_BLHK, v_BLHV, options);
  const bool sliding = options.window > 0;
  const int64_t longest = options.chunk_size > 0 ? options.chunk_size : T + L;
  const Settings settings{.scale = options.scale,
                          .dropout = options.dropout,
                          .dropout_key = static_cast<int64_t>(options.dropout_key),
                          .window = sliding ? std::min(options.window, longest) : longest,
                          .phase = sliding || options.starts_BL.defined() || options.position_B.defined() ? -1 : T,
                          .narrow = narrow};
  return ChunkAttentionFunction::apply(q_BLHK, k_BLHK, v_BLHV, prior_k, prior_v, begin_BL, settings);
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def(
      "chunk_attention(Tensor q, Tensor k, Tensor v, int chunk_size, float scale=1.0, Tensor? starts=None, "
      "Tensor? prior_k=None, Tensor? prior_v=None, Tensor? position=None, float dropout=0.0, int dropout_key=0) -> "
      "Tensor",
      &chunk_attention_op);
}

}  // namespace megalodon::ops
