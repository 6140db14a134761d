// CPU kernel of cached_attention; cached_attention_kernel.h says how the work is split.
#include "ops/cached_attention/cached_attention_kernel.h"

#include <algorithm>
#include <cmath>
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

constexpr int64_t kSpan = 256;  // keys of a task: half a megabyte of values 2,048 wide
constexpr int64_t kKeys = 4;    // that share a load of the query, or of the sums

/// What a task leaves of one step: Σ e^(s − maximum) v, maximum and Σ e^(s − maximum).
struct Partial {
  float* values;
  float *maximum, *sum;
};

/// The tasks of a call and their results.
struct Spans {
  explicit Spans(const CachedAttentionArgs& args) : a(args), first(static_cast<size_t>(args.B) + 1) {
    for (int64_t b = 0; b < a.B; ++b) {
      const int64_t keys = a.rows[b].position + a.L;
      first[static_cast<size_t>(b) + 1] = first[static_cast<size_t>(b)] + (keys + kSpan - 1) / kSpan;
    }
    numbers.resize(static_cast<size_t>(first.back() * a.H * a.L * (a.V + 2)));
  }
  int64_t tasks() const { return first.back() * a.H; }
  int64_t row_of(int64_t span) const { return std::upper_bound(first.begin(), first.end(), span) - first.begin() - 1; }
  Partial partial(int64_t span, int64_t head, int64_t step) {
    float* at = numbers.data() + ((span * a.H + head) * a.L + step) * (a.V + 2);
    return {at + 2, at, at + 1};
  }

  const CachedAttentionArgs& a;
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

/// Keys first .. end of the row for step i.
template <class T>
void attend_span(const CachedAttentionArgs& a, int64_t b, int64_t h, int64_t i, int64_t first, int64_t end,
                 const Partial& out) {
  alignas(64) float score[kSpan] = {};
  const int64_t count = end - first, k_stride = a.H * a.K, v_stride = a.H * a.V;
  const float* q = static_cast<const float*>(a.q) + ((b * a.L + i) * a.H + h) * a.K;
  const T* k = static_cast<const T*>(a.rows[b].k) + first * k_stride + h * a.K;
  const T* v = static_cast<const T*>(a.rows[b].v) + first * v_stride + h * a.V;
  for (int64_t j = 0; j < count; j += kKeys)
    scores_of(q, k + j * k_stride, k_stride, std::min(kKeys, count - j), a.K, score + j);
  exponentials(score, count, out);
  std::fill_n(out.values, a.V, 0.0f);
  int64_t j = 0;
  for (; j + kKeys <= count; j += kKeys) add_values(score + j, v + j * v_stride, v_stride, a.V, out.values);
  for (; j < count; ++j) add_value(score[j], v + j * v_stride, a.V, out.values);
}

inline void span_task(Spans& spans, int64_t span, int64_t h) {
  const CachedAttentionArgs& a = spans.a;
  const int64_t b = spans.row_of(span), first = (span - spans.first[static_cast<size_t>(b)]) * kSpan;
  for (int64_t i = 0; i < a.L; ++i) {
    const int64_t end = std::min(first + kSpan, a.rows[b].position + i + 1);
    const Partial out = spans.partial(span, h, i);
    if (end <= first) {  // of a later step alone
      *out.sum = 0;
    } else if (a.type == NumberType::kBfloat16) {
      attend_span<Bfloat16>(a, b, h, i, first, end, out);
    } else {
      attend_span<float>(a, b, h, i, first, end, out);
    }
  }
}

/// y of one step: its spans, brought to one maximum.
inline void combine_task(Spans& spans, int64_t b, int64_t i, int64_t h) {
  const CachedAttentionArgs& a = spans.a;
  const int64_t begin = spans.first[static_cast<size_t>(b)];
  const int64_t end = begin + (a.rows[b].position + i) / kSpan + 1;
  float maximum = *spans.partial(begin, h, i).maximum;
  for (int64_t s = begin; s < end; ++s) maximum = std::max(maximum, *spans.partial(s, h, i).maximum);
  double sum = 0;
  for (int64_t s = begin; s < end; ++s) {
    const Partial part = spans.partial(s, h, i);
    sum += *part.sum * std::exp(static_cast<double>(*part.maximum) - maximum);
  }
  float* y = static_cast<float*>(a.y) + ((b * a.L + i) * a.H + h) * a.V;
  std::fill_n(y, a.V, 0.0f);
  for (int64_t s = begin; s < end; ++s) {
    const Partial part = spans.partial(s, h, i);
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
    HWY_DYNAMIC_DISPATCH(store_steps)(a, new_k + b * a.L * a.H * a.K, a.H * a.K, position, k);
    HWY_DYNAMIC_DISPATCH(store_steps)(a, new_v + b * a.L * a.H * a.V, a.H * a.V, position, v);
  }
  Spans spans(a);
  const auto span = [&](int64_t task) { HWY_DYNAMIC_DISPATCH(span_task)(spans, task / a.H, task % a.H); };
  const auto combine = [&](int64_t task) {
    HWY_DYNAMIC_DISPATCH(combine_task)(spans, task / (a.L * a.H), task / a.H % a.L, task % a.H);
  };
  constexpr int64_t kWorthThreads = 1 << 17;  // numbers of the caches; starting threads costs microseconds
  if (spans.tasks() * kSpan * (a.K + a.V) < kWorthThreads) {
    for (int64_t task = 0; task < spans.tasks(); ++task) span(task);
    for (int64_t task = 0; task < a.B * a.L * a.H; ++task) combine(task);
    return;
  }
  parallel_for(spans.tasks(), span);
  parallel_for(a.B * a.L * a.H, combine);
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
