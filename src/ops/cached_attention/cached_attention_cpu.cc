// CPU kernel of cached_attention; cached_attention_kernel.h says how the work is split.
#include "ops/cached_attention/cached_attention_kernel.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cached_attention/cached_attention_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h: a block of its own

#include "hwy/highway.h"
#include "ops/chunk_attention/exp-inl.h"
#include "ops/row_norm/run_math-inl.h"

#ifndef MEGALODON_CACHED_ATTENTION_SPANS
#define MEGALODON_CACHED_ATTENTION_SPANS
namespace megalodon::ops {
namespace {

constexpr int64_t kSpan = 256;   // keys of a task: half a megabyte of values 2,048 wide
constexpr int64_t kQueries = 8;  // of a task: of these each key is read once
constexpr int64_t kKeys = 4;     // that share a load of the query, or of the sums

/// What a task leaves of one query: Σ e^(s − maximum) v, maximum and Σ e^(s − maximum).
struct Partial {
  float* values;
  float *maximum, *sum;
};

/// The tasks of a call and their results.
struct Spans {
  explicit Spans(const CachedAttentionArgs& args)
      : a(args), tiles((args.queries() + kQueries - 1) / kQueries), first(static_cast<size_t>(args.B) + 1) {
    for (int64_t b = 0; b < a.B; ++b) {
      const int64_t keys = a.rows[b].position + a.L;
      first[static_cast<size_t>(b) + 1] = first[static_cast<size_t>(b)] + (keys + kSpan - 1) / kSpan;
    }
    numbers.resize(static_cast<size_t>(first.back() * a.G * a.queries() * (a.V + 2)));
  }
  int64_t tasks() const { return first.back() * a.G * tiles; }
  int64_t row_of(int64_t span) const { return std::upper_bound(first.begin(), first.end(), span) - first.begin() - 1; }
  Partial partial(int64_t span, int64_t g, int64_t query) {
    float* at = numbers.data() + ((span * a.G + g) * a.queries() + query) * (a.V + 2);
    return {at + 2, at, at + 1};
  }

  const CachedAttentionArgs& a;
  int64_t tiles;               // of kQueries queries of a head of keys
  std::vector<int64_t> first;  // [B+1]: of each row, among the spans of all
  std::vector<float> numbers;
};

}  // namespace
}  // namespace megalodon::ops
#endif  // MEGALODON_CACHED_ATTENTION_SPANS

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// score[j] = q · k_j for `count` <= kKeys rows that are `stride` apart.
template <class T>
HWY_INLINE void scores_of(const float* q, const T* k, int64_t stride, int64_t count, int64_t K, float* score) {
  double sums[kKeys] = {};
  for_each_span<float>(K, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    const T *k1 = k + (count > 1 ? stride : 0), *k2 = k + (count > 2 ? 2 * stride : 0),
            *k3 = k + (count > 3 ? 3 * stride : 0);
    for (int64_t i = begin; i < end; i += lanes) {
      const auto x = hn::LoadU(d, q + i);
      s0 = hn::MulAdd(x, load(d, k + i), s0);
      s1 = hn::MulAdd(x, load(d, k1 + i), s1);
      s2 = hn::MulAdd(x, load(d, k2 + i), s2);
      s3 = hn::MulAdd(x, load(d, k3 + i), s3);
    }
    const auto total = [&](auto s) HWY_ATTR { return hn::GetLane(hn::SumOfLanes(d, s)); };
    sums[0] += total(s0), sums[1] += total(s1), sums[2] += total(s2), sums[3] += total(s3);
  });
  for (int64_t j = 0; j < count; ++j) score[j] = static_cast<float>(sums[j]);
}

/// y += Σ_j p_j v_j for kKeys rows that are `stride` apart.
template <class T>
HWY_INLINE void add_values(const float* p, const T* v, int64_t stride, int64_t V, float* y) {
  for_each_span<float>(V, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    const auto p0 = hn::Set(d, p[0]), p1 = hn::Set(d, p[1]), p2 = hn::Set(d, p[2]), p3 = hn::Set(d, p[3]);
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
      const auto left = hn::MulAdd(p1, load(d, v + stride + i), hn::MulAdd(p0, load(d, v + i), hn::LoadU(d, y + i)));
      const auto right = hn::MulAdd(p3, load(d, v + 3 * stride + i), hn::Mul(p2, load(d, v + 2 * stride + i)));
      hn::StoreU(hn::Add(left, right), d, y + i);
    }
  });
}

template <class T>
HWY_INLINE void add_value(float p, const T* v, int64_t V, float* y) {
  for_each_span<float>(V, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d)))
      hn::StoreU(hn::MulAdd(hn::Set(d, p), load(d, v + i), hn::LoadU(d, y + i)), d, y + i);
  });
}

/// Scores to e^(s − maximum).
HWY_INLINE void exponentials(float* score, int64_t count, const Partial& out) {
  float maximum = score[0];
  for (int64_t j = 1; j < count; ++j) maximum = std::max(maximum, score[j]);
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = 0; j < count; j += lanes)  // the buffer is a multiple of all lanes
    hn::StoreU(exp_nonpositive(d, hn::Sub(hn::LoadU(d, score + j), hn::Set(d, maximum))), d, score + j);
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += score[j];
  *out.maximum = maximum;
  *out.sum = static_cast<float>(sum);
}

/// The span's keys for `count` <= kQueries queries of head g, from `first` on.
template <class T>
void attend_span(Spans& spans, int64_t span, int64_t g, int64_t first, int64_t count) {
  const CachedAttentionArgs& a = spans.a;
  const int64_t b = spans.row_of(span), first_key = (span - spans.first[static_cast<size_t>(b)]) * kSpan;
  const int64_t k_stride = a.G * a.K, v_stride = a.G * a.V;
  const T* k = static_cast<const T*>(a.rows[b].k) + first_key * k_stride + g * a.K;
  const T* v = static_cast<const T*>(a.rows[b].v) + first_key * v_stride + g * a.V;
  struct Query {
    const float* q;
    int64_t at, keys;  // its step in the chunk, and the keys that it sees; none where they are all of later steps
    Partial out;
    alignas(64) float score[kSpan];
  };
  Query tile[kQueries];
  const std::span queries(tile, static_cast<size_t>(count));
  int64_t most = 0;
  for (int64_t n = 0; n < count; ++n) {
    Query& query = tile[n];
    query.q = static_cast<const float*>(a.q) + a.row_of(b, g, first + n) * a.K;
    query.at = a.rows[b].position + a.step_of(first + n);
    query.keys = std::clamp<int64_t>(query.at + 1 - first_key, 0, kSpan);
    query.out = spans.partial(span, g, first + n);
    std::fill_n(query.score, kSpan, 0.0f);
    std::fill_n(query.out.values, a.V, 0.0f);
    most = std::max(most, query.keys);
  }
  for (int64_t j = 0; j < most; j += kKeys)
    for (Query& query : queries)
      if (j < query.keys)
        scores_of(query.q, k + j * k_stride, k_stride, std::min(kKeys, query.keys - j), a.K, query.score + j);
  for (int64_t n = 0; a.slope != nullptr && n < count; ++n) {
    const float slope = a.slope[a.head_of(g, first + n)];
    for (int64_t j = 0; j < tile[n].keys; ++j)
      tile[n].score[j] += slope * static_cast<float>(first_key + j - tile[n].at);
  }
  for (Query& query : queries)
    if (query.keys > 0) exponentials(query.score, query.keys, query.out);
  for (int64_t j = 0; j < most; j += kKeys)
    for (const Query& query : queries)
      if (j + kKeys <= query.keys)
        add_values(query.score + j, v + j * v_stride, v_stride, a.V, query.out.values);
      else
        for (int64_t i = j; i < query.keys; ++i) add_value(query.score[i], v + i * v_stride, a.V, query.out.values);
}

inline void span_task(Spans& spans, int64_t task) {
  const int64_t tile = task % spans.tiles, g = task / spans.tiles % spans.a.G, span = task / spans.tiles / spans.a.G;
  const int64_t first = tile * kQueries, count = std::min(kQueries, spans.a.queries() - first);
  if (spans.a.type == NumberType::kBfloat16)
    attend_span<Bfloat16>(spans, span, g, first, count);
  else
    attend_span<float>(spans, span, g, first, count);
}

/// y of one query: its spans, brought to one maximum.
inline void combine_task(Spans& spans, int64_t task) {
  const CachedAttentionArgs& a = spans.a;
  const int64_t n = task % a.queries(), g = task / a.queries() % a.G, b = task / a.queries() / a.G;
  const int64_t begin = spans.first[static_cast<size_t>(b)];
  const int64_t end = begin + (a.rows[b].position + a.step_of(n)) / kSpan + 1;
  float maximum = *spans.partial(begin, g, n).maximum;
  for (int64_t s = begin; s < end; ++s) maximum = std::max(maximum, *spans.partial(s, g, n).maximum);
  double sum = 0;
  for (int64_t s = begin; s < end; ++s) {
    const Partial part = spans.partial(s, g, n);
    sum += *part.sum * std::exp(static_cast<double>(*part.maximum) - maximum);
  }
  float* y = static_cast<float*>(a.y) + a.row_of(b, g, n) * a.V;
  std::fill_n(y, a.V, 0.0f);
  for (int64_t s = begin; s < end; ++s) {
    const Partial part = spans.partial(s, g, n);
    const double weight = std::exp(static_cast<double>(*part.maximum) - maximum) / sum;
    add_value(static_cast<float>(weight), part.values, a.V, y);
  }
}

template <class T>
void store_steps_as(const float* steps, int64_t size, void* to) {
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d)))
      store(hn::LoadU(d, steps + i), d, static_cast<T*>(to) + i);
  });
}

/// `row` numbers of each of the call's steps, behind those that the cache holds.
inline void store_steps(const CachedAttentionArgs& a, const float* steps, int64_t row, int64_t position, void* cache) {
  if (a.type == NumberType::kBfloat16)
    store_steps_as<Bfloat16>(steps, a.L * row, static_cast<Bfloat16*>(cache) + position * row);
  else
    store_steps_as<float>(steps, a.L * row, static_cast<float*>(cache) + position * row);
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(span_task);
HWY_EXPORT(combine_task);
HWY_EXPORT(store_steps);

}  // namespace

void cached_attention_cpu(const CachedAttentionArgs& a) {
  for (int64_t b = 0; b < a.B; ++b) {
    const auto& [k, v, position] = a.rows[b];
    const auto *new_k = static_cast<const float*>(a.k), *new_v = static_cast<const float*>(a.v);
    HWY_DYNAMIC_DISPATCH(store_steps)(a, new_k + b * a.L * a.G * a.K, a.G * a.K, position, k);
    HWY_DYNAMIC_DISPATCH(store_steps)(a, new_v + b * a.L * a.G * a.V, a.G * a.V, position, v);
  }
  Spans spans(a);
  const auto span = [&](int64_t task) { HWY_DYNAMIC_DISPATCH(span_task)(spans, task); };
  const auto combine = [&](int64_t task) { HWY_DYNAMIC_DISPATCH(combine_task)(spans, task); };
  constexpr int64_t kWorthThreads = 1 << 17;  // products of a step; starting threads costs microseconds
  if (spans.first.back() * a.H * kSpan * (a.K + a.V) < kWorthThreads) {
    for (int64_t task = 0; task < spans.tasks(); ++task) span(task);
    for (int64_t task = 0; task < a.B * a.L * a.H; ++task) combine(task);
    return;
  }
  parallel_for(spans.tasks(), span);
  parallel_for(a.B * a.L * a.H, combine);
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
