// Checks and dispatch of cached_attention.
#include "ops/cached_attention/cached_attention.h"

#include "base/check.h"
#include "ops/attention/attention.h"
#include "ops/cached_attention/cached_attention_kernel.h"
#include "ops/device.h"

namespace megalodon::ops {
namespace {

constexpr int64_t kFewSteps = kCachedAttentionSteps;  // more share a tile of keys: that is attention()'s work

CachedAttentionRow row_of(const KeyValueRows& rows, size_t b) {
  return {rows.caches[b].k_CGK.data_ptr(), rows.caches[b].v_CGV.data_ptr(), rows.position[b]};
}

void check_cache(const KeyValueCache& cache, const Tensor& k, const Tensor& v, int64_t position, size_t row) {
  const auto type = cache.k_CGK.scalar_type();
  const auto fits = [&](const Tensor& held, const Tensor& steps) {
    return held.dim() == 3 && held.is_contiguous() && held.device() == steps.device() &&
           held.size(1) == steps.size(2) && held.size(2) == steps.size(3) && held.scalar_type() == type;
  };
  check((type == torch::kFloat32 || type == torch::kBFloat16) && fits(cache.k_CGK, k) && fits(cache.v_CGV, v) &&
            cache.k_CGK.size(0) == cache.v_CGV.size(0),
        "[cached_attention] the cache of row {} must be float32 or bfloat16, contiguous, with keys [C,{},{}] and "
        "values [C,{},{}], got {} {} and {} {}",
        row, k.size(2), k.size(3), v.size(2), v.size(3), c10::toString(type), c10::str(cache.k_CGK.sizes()),
        c10::toString(cache.v_CGV.scalar_type()), c10::str(cache.v_CGV.sizes()));
  check(position >= 0 && position < cache.k_CGK.size(0),
        "[cached_attention] the position of row {} must be >= 0 and below the cache's {} steps, got {}", row,
        cache.k_CGK.size(0), position);
  for (const Tensor& held : {cache.k_CGK, cache.v_CGV})
    check(!held.is_cuda() || reinterpret_cast<uintptr_t>(held.data_ptr()) % 16 == 0,
          "[cached_attention] on a GPU a cache must begin at a multiple of 16 bytes");
}

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const KeyValueRows& rows, const Tensor& slope_H) {
  check(q.dim() == 4 && k.dim() == 4 && v.dim() == 4 && q.numel() > 0 && k.numel() > 0 && v.numel() > 0 &&
            k.sizes().slice(0, 2) == q.sizes().slice(0, 2) && q.size(2) % k.size(2) == 0 && k.size(3) == q.size(3) &&
            v.sizes().slice(0, 3) == k.sizes().slice(0, 3),
        "[cached_attention] expected q [B,L,H,K], k [B,L,G,K] and v [B,L,G,V], none empty and H a multiple of G, got "
        "{}, {} and {}",
        c10::str(q.sizes()), c10::str(k.sizes()), c10::str(v.sizes()));
  check(!slope_H.defined() || slope_H.sizes() == torch::IntArrayRef{q.size(2)},
        "[cached_attention] expected a slope for each of {} heads, got {}", q.size(2), c10::str(slope_H.sizes()));
  check(rows.caches.size() == static_cast<size_t>(q.size(0)) && rows.position.size() == rows.caches.size(),
        "[cached_attention] expected a cache and a position for each of {} rows, got {} and {}", q.size(0),
        rows.caches.size(), rows.position.size());
  if (const Tensor& table = rows.table_B3; table.defined())
    check(table.sizes() == torch::IntArrayRef({q.size(0), 3}) && table.scalar_type() == torch::kInt64 &&
              table.is_contiguous() && table.device() == q.device(),
          "[cached_attention] expected a contiguous table [{},3], int64 on {}, got {} {} on {}", q.size(0),
          q.device().str(), c10::toString(table.scalar_type()), c10::str(table.sizes()), table.device().str());
  for (size_t b = 0; b < rows.caches.size(); ++b) {
    check_cache(rows.caches[b], k, v, rows.position[b], b);
    check(rows.caches[b].k_CGK.scalar_type() == rows.caches[0].k_CGK.scalar_type(),
          "[cached_attention] the caches of a call must be of one dtype");
  }
}

/// Whether no row's steps reach into another chunk.
bool within_chunks(const KeyValueRows& rows, int64_t steps) {
  for (size_t b = 0; b < rows.caches.size(); ++b)
    if (rows.position[b] + steps > rows.caches[b].k_CGK.size(0)) return false;
  return true;
}

/// On a GPU the kernel reads what there is, on the CPU float32.
torch::ScalarType step_type(const Tensor& q, const Tensor& k, const Tensor& v) {
  const bool same = q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type();
  return same && q.is_cuda() && q.scalar_type() == torch::kBFloat16 ? torch::kBFloat16 : torch::kFloat32;
}

Tensor few_steps(const Tensor& q, const Tensor& k, const Tensor& v, const KeyValueRows& rows, const Tensor& slope_H) {
  const auto dense = [type = step_type(q, k, v)](const Tensor& t) { return t.to(type).contiguous(); };
  const Tensor dense_q = dense(q), dense_k = dense(k), dense_v = dense(v);
  const Tensor y = torch::empty({q.size(0), q.size(1), q.size(2), v.size(3)}, dense_v.options());
  Tensor table = rows.table_B3;
  if (!table.defined()) table = key_value_tables({rows})[0].to(q.device());
  Tensor slope = slope_H;
  if (slope.defined()) slope = slope.to(q.device(), torch::kFloat32).contiguous();
  run_kernel(q, MEGALODON_KERNELS(cached_attention),
             {dense_q.data_ptr(), dense_k.data_ptr(), dense_v.data_ptr(), number_type(dense_q),
              reinterpret_cast<const CachedAttentionRow*>(table.data_ptr<int64_t>()), number_type(rows.caches[0].k_CGK),
              slope.defined() ? slope.data_ptr<float>() : nullptr, y.data_ptr(), q.size(0), q.size(1), q.size(2),
              k.size(2), q.size(3), v.size(3), rows.room()});
  return y.to(q.scalar_type());
}

/// attention() of one row [1,L,..] with what lies before it in the cache.
Tensor many_steps(const Tensor& q, const Tensor& k, const Tensor& v, const KeyValueCache& cache, int64_t position,
                  const Tensor& slope_H, Precision precision) {
  const auto rounded = [&](const Tensor& t) { return t.to(cache.k_CGK.scalar_type()).to(q.scalar_type()); };
  const auto prior = [&](const Tensor& held) { return rounded(held.narrow(0, 0, position).unsqueeze(0)); };
  AttentionOptions options;
  options.chunk_size = cache.k_CGK.size(0);
  options.precision = precision, options.slope_H = slope_H;
  options.prior_k_BTGK = prior(cache.k_CGK), options.prior_v_BTGV = prior(cache.v_CGV);
  const Tensor y = attention(q, rounded(k), rounded(v), options);
  const int64_t L = q.size(1), end = (position + L - 1) % options.chunk_size + 1, stored = std::min(end, L);
  for (const auto& [held, steps] : {std::pair{cache.k_CGK, k}, std::pair{cache.v_CGV, v}})
    held.narrow(0, end - stored, stored).copy_(steps[0].narrow(0, L - stored, stored));
  return y;
}

}  // namespace

int64_t KeyValueRows::room() const {
  int64_t most = 0;
  for (const KeyValueCache& cache : caches) most = std::max(most, cache.k_CGK.size(0));
  return most;
}

Tensor key_value_tables(const std::vector<KeyValueRows>& layers) {
  static_assert(sizeof(CachedAttentionRow) == 3 * sizeof(int64_t));
  const size_t B = layers.empty() ? 0 : layers[0].caches.size();
  const Tensor tables = torch::empty({std::ssize(layers), static_cast<int64_t>(B), 3}, torch::kInt64);
  auto* row = reinterpret_cast<CachedAttentionRow*>(tables.data_ptr<int64_t>());
  for (const KeyValueRows& rows : layers) {
    check(rows.caches.size() == B && rows.position.size() == B,
          "[cached_attention] expected a cache and a position for each of {} rows, got {} and {}", B,
          rows.caches.size(), rows.position.size());
    for (size_t b = 0; b < B; ++b) *row++ = row_of(rows, b);
  }
  return tables;
}

Tensor step_positions(const KeyValueRows& rows, int64_t steps, torch::Device device) {
  const Tensor first_B1 =
      rows.table_B3.defined() ? rows.table_B3.narrow(1, 2, 1) : torch::tensor(rows.position).unsqueeze(1).to(device);
  if (steps == 1) return first_B1;
  return (first_B1 + torch::arange(steps, first_B1.options())).remainder(rows.room());
}

Tensor cached_attention(const Tensor& q_BLHK, const Tensor& k_BLGK, const Tensor& v_BLGV, const KeyValueRows& rows,
                        const Tensor& slope_H, Precision precision) {
  check_inputs(q_BLHK, k_BLGK, v_BLGV, rows, slope_H);
  const torch::NoGradGuard no_grad;
  const int64_t L = q_BLHK.size(1);
  const bool kernel = has_kernels(q_BLHK) && q_BLHK.scalar_type() != torch::kFloat64;
  if (kernel && L <= kFewSteps && within_chunks(rows, L)) return few_steps(q_BLHK, k_BLGK, v_BLGV, rows, slope_H);
  std::vector<Tensor> outputs;
  for (size_t b = 0; b < rows.caches.size(); ++b) {
    const auto row = [&](const Tensor& t) { return t.narrow(0, static_cast<int64_t>(b), 1); };
    outputs.push_back(
        many_steps(row(q_BLHK), row(k_BLGK), row(v_BLGV), rows.caches[b], rows.position[b], slope_H, precision));
  }
  return outputs.size() == 1 ? outputs[0] : torch::cat(outputs);
}

}  // namespace megalodon::ops
