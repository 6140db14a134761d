// The arithmetic of a norm on one run of K neighbouring features: a row (row_norm) or a head's part of it (query_key).
// timestep_norm, whose runs are short, has sums of its own (group_math-inl.h) and shares the spans. Highway "-inl"
// header: compiled once per CPU target, included by *_cpu.cc only.
//
// A mean is held as the sum of two floats, hi + lo. x − hi is rounded relative to the difference and not to x, so
// (x − hi) − lo is right to the last bits even where the mean is a million times the deviation, at the price of one
// subtraction; a mean of one float would leave an error of |mean| · 2^-24.
//
// Each formula is written once, for a vector tag: whole vectors run it with the widest tag, the rest with tags of half,
// a quarter, … of the lanes. (Groups of 12 features, with one lane at a time for the rest: 2.6 times as long.)
#include <algorithm>
#include <cstdint>

#if defined(MEGALODON_RUN_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGALODON_RUN_MATH_INL_H_
#undef MEGALODON_RUN_MATH_INL_H_
#else
#define MEGALODON_RUN_MATH_INL_H_
#endif

#include "hwy/highway.h"
#include "ops/number-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::ScalableTag<double>;

inline int64_t whole_vectors(int64_t size, size_t lanes) {
  return size - size % static_cast<int64_t>(lanes);
}

/// Spans of at most 32 vectors: what a lane adds up in float32 stays short, also where vectors are narrow.
template <class D, class Body>
HWY_INLINE int64_t whole_span(D d, int64_t begin, int64_t size, const Body& body) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t end = begin + whole_vectors(size - begin, hn::Lanes(d));
  for (; begin < end; begin = std::min(end, begin + 32 * lanes)) body(d, begin, std::min(end, begin + 32 * lanes));
  return end;
}

/// Calls body(tag, begin, end) for spans of whole vectors that make up [0, size).
template <class T, class Body>
HWY_INLINE void for_each_span(int64_t size, const Body& body) {
  int64_t at = whole_span(hn::ScalableTag<T>(), 0, size, body);
  at = whole_span(hn::CappedTag<T, 8>(), at, size, body);
  at = whole_span(hn::CappedTag<T, 4>(), at, size, body);
  at = whole_span(hn::CappedTag<T, 2>(), at, size, body);
  whole_span(hn::CappedTag<T, 1>(), at, size, body);
}

struct SplitMean {
  float hi, lo;
};

inline SplitMean split(double mean) {
  const auto hi = static_cast<float>(mean);
  return {hi, static_cast<float>(mean - hi)};
}

/// Σ x over [begin, end), in float64: float32 would leave an error of |mean| · 2^-24 a step in the running statistics.
template <class Tag>
HWY_INLINE double sum_span(Tag d, const float* x, int64_t begin, int64_t end) {
  const hn::Rebind<float, Tag> narrow;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  for (int64_t i = begin; i < end; i += lanes) sum = hn::Add(sum, hn::PromoteTo(d, hn::LoadU(narrow, x + i)));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_INLINE double run_mean(const float* x, int64_t size) {
  double sum = 0;
  for_each_span<double>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR { sum += sum_span(d, x, begin, end); });
  return sum / static_cast<double>(size);
}

template <class Tag>
HWY_INLINE float squares_span(Tag d, const float* x, SplitMean mean, int64_t begin, int64_t end) {
  const auto hi = hn::Set(d, mean.hi), lo = hn::Set(d, mean.lo);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  // Two sums: a multiply-add takes four cycles and two can start in each, but long runs are bound by loads anyway.
  auto even = hn::Zero(d), odd = hn::Zero(d);
  int64_t i = begin;
  for (; i + 2 * lanes <= end; i += 2 * lanes) {
    const auto a = hn::Sub(hn::Sub(hn::LoadU(d, x + i), hi), lo);
    const auto b = hn::Sub(hn::Sub(hn::LoadU(d, x + i + lanes), hi), lo);
    even = hn::MulAdd(a, a, even);
    odd = hn::MulAdd(b, b, odd);
  }
  for (; i < end; i += lanes) {
    const auto a = hn::Sub(hn::Sub(hn::LoadU(d, x + i), hi), lo);
    even = hn::MulAdd(a, a, even);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
}

/// Mean of (x − mean)².
HWY_INLINE double run_variance(const float* x, SplitMean mean, int64_t size) {
  double sum = 0;
  for_each_span<float>(
      size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR { sum += squares_span(d, x, mean, begin, end); });
  return sum / static_cast<double>(size);
}

template <class Tag, class Y>
HWY_INLINE void normalize_span(Tag d, const float* x, SplitMean mean, float rstd, const float* scale,
                               const float* shift, Y* y, int64_t begin, int64_t end) {
  const auto hi = hn::Set(d, mean.hi), lo = hn::Set(d, mean.lo), factor = hn::Set(d, rstd);
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto normal = hn::Mul(hn::Sub(hn::Sub(hn::LoadU(d, x + i), hi), lo), factor);
    store(hn::MulAdd(normal, hn::LoadU(d, scale + i), hn::LoadU(d, shift + i)), d, y + i);
  }
}

/// y = (x − mean) · rstd · scale + shift
template <class Y>
HWY_INLINE void normalize_run(const float* x, SplitMean mean, float rstd, const float* scale, const float* shift, Y* y,
                              int64_t size) {
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end)
                                 HWY_ATTR { normalize_span(d, x, mean, rstd, scale, shift, y, begin, end); });
}

/// With g = dy · scale and c = x − mean:
struct GradientSums {
  double g;   // Σ g
  double gc;  // Σ g c
  double c;   // Σ c, not 0 where `mean` is not the mean of the run itself
};

template <class Tag, class Y>
HWY_INLINE GradientSums gradient_sums_span(Tag d, const float* x, SplitMean mean, const Y* dy, const float* scale,
                                           int64_t begin, int64_t end) {
  const auto hi = hn::Set(d, mean.hi), lo = hn::Set(d, mean.lo);
  auto sum_g = hn::Zero(d), sum_gc = hn::Zero(d), sum_c = hn::Zero(d);
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto g = hn::Mul(load(d, dy + i), hn::LoadU(d, scale + i));
    const auto c = hn::Sub(hn::Sub(hn::LoadU(d, x + i), hi), lo);
    sum_g = hn::Add(sum_g, g);
    sum_gc = hn::MulAdd(g, c, sum_gc);
    sum_c = hn::Add(sum_c, c);
  }
  return {hn::GetLane(hn::SumOfLanes(d, sum_g)), hn::GetLane(hn::SumOfLanes(d, sum_gc)),
          hn::GetLane(hn::SumOfLanes(d, sum_c))};
}

template <class Y>
HWY_INLINE GradientSums gradient_sums(const float* x, SplitMean mean, const Y* dy, const float* scale, int64_t size) {
  GradientSums sums{0, 0, 0};
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    const GradientSums span = gradient_sums_span(d, x, mean, dy, scale, begin, end);
    sums = {sums.g + span.g, sums.gc + span.gc, sums.c + span.c};
  });
  return sums;
}

/// How one run's gradient depends on what its sums told: dx = g · rstd + constant + slope · c.
struct RunGradient {
  float rstd, constant, slope;
};

template <class Tag, class Y>
HWY_INLINE void input_gradient_span(Tag d, const float* x, SplitMean mean, const Y* dy, const float* scale,
                                    RunGradient r, float* dx, int64_t begin, int64_t end) {
  const auto hi = hn::Set(d, mean.hi), lo = hn::Set(d, mean.lo), rstd = hn::Set(d, r.rstd);
  const auto constant = hn::Set(d, r.constant), slope = hn::Set(d, r.slope);
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto g = hn::Mul(load(d, dy + i), hn::LoadU(d, scale + i));
    const auto c = hn::Sub(hn::Sub(hn::LoadU(d, x + i), hi), lo);
    hn::StoreU(hn::MulAdd(g, rstd, hn::MulAdd(slope, c, constant)), d, dx + i);
  }
}

template <class Y>
HWY_INLINE void input_gradient(const float* x, SplitMean mean, const Y* dy, const float* scale, RunGradient r,
                               float* dx, int64_t size) {
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end)
                                 HWY_ATTR { input_gradient_span(d, x, mean, dy, scale, r, dx, begin, end); });
}

template <class Tag, class Y>
HWY_INLINE void parameter_gradient_span(Tag d, const float* x, SplitMean mean, float rstd, const Y* dy, float* dscale,
                                        float* dshift, int64_t begin, int64_t end) {
  const auto hi = hn::Set(d, mean.hi), lo = hn::Set(d, mean.lo), factor = hn::Set(d, rstd);
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto normal = hn::Mul(hn::Sub(hn::Sub(hn::LoadU(d, x + i), hi), lo), factor);
    const auto gradient = load(d, dy + i);
    hn::StoreU(hn::MulAdd(gradient, normal, hn::LoadU(d, dscale + i)), d, dscale + i);
    hn::StoreU(hn::Add(gradient, hn::LoadU(d, dshift + i)), d, dshift + i);
  }
}

/// dscale += dy · (x − mean) · rstd and dshift += dy
template <class Y>
HWY_INLINE void parameter_gradient(const float* x, SplitMean mean, float rstd, const Y* dy, float* dscale,
                                   float* dshift, int64_t size) {
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    parameter_gradient_span(d, x, mean, rstd, dy, dscale, dshift, begin, end);
  });
}

template <class Tag, class Y>
HWY_INLINE void all_gradients_span(Tag d, const float* x, SplitMean mean, const Y* dy, const float* scale,
                                   RunGradient r, float* dx, float* dscale, float* dshift, int64_t begin, int64_t end) {
  const auto hi = hn::Set(d, mean.hi), lo = hn::Set(d, mean.lo), rstd = hn::Set(d, r.rstd);
  const auto constant = hn::Set(d, r.constant), slope = hn::Set(d, r.slope);
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto gradient = load(d, dy + i), g = hn::Mul(gradient, hn::LoadU(d, scale + i));
    const auto c = hn::Sub(hn::Sub(hn::LoadU(d, x + i), hi), lo);
    hn::StoreU(hn::MulAdd(g, rstd, hn::MulAdd(slope, c, constant)), d, dx + i);
    hn::StoreU(hn::MulAdd(gradient, hn::Mul(c, rstd), hn::LoadU(d, dscale + i)), d, dscale + i);
    hn::StoreU(hn::Add(gradient, hn::LoadU(d, dshift + i)), d, dshift + i);
  }
}

/// input_gradient() and parameter_gradient() in one pass over x and dy.
template <class Y>
HWY_INLINE void all_gradients(const float* x, SplitMean mean, const Y* dy, const float* scale, RunGradient r, float* dx,
                              float* dscale, float* dshift, int64_t size) {
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    all_gradients_span(d, x, mean, dy, scale, r, dx, dscale, dshift, begin, end);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
