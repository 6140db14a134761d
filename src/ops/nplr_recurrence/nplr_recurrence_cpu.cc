// One task is one batch row and some features, one after the other: the states and coefficients of one, 2N floats each,
// stay in L1 over all steps.
// Vectors run along the states, real and imaginary parts apart, so that every sum over states is one reduction a step;
// lanes beyond N hold zeros. Two such sums a step depend on each other (s_r, then y), which bounds a step from below by
// their latency; independent features fill the cores.
//
// Work per step, feature and state: 8 multiply-adds, and 4 more for each rank beyond none.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/nplr_recurrence/nplr_recurrence_cpu.cc"
#include <hwy/foreach_target.h>
// foreach_target.h comes first
#include <hwy/aligned_allocator.h>
#include <hwy/highway.h>

#include <algorithm>

#include "base/parallel.h"
#include "ops/flush_denormals.h"
#include "ops/nplr_recurrence/nplr_recurrence_kernel.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;

constexpr F32 kF32;

HWY_INLINE int64_t whole_vectors(int64_t n) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(kF32));
  return (n + lanes - 1) / lanes * lanes;
}

/// N complex numbers as N real parts and N imaginary parts, each padded to whole vectors.
struct Split {
  float *re, *im;
};

/// From complex [N]; null means zero.
HWY_INLINE void load_split(const float* from, int64_t N, const Split& to) {
  const int64_t padded = whole_vectors(N);
  std::fill_n(to.re, padded, 0.0F);
  std::fill_n(to.im, padded, 0.0F);
  if (from == nullptr) return;
  for (int64_t n = 0; n < N; ++n) to.re[n] = from[2 * n], to.im[n] = from[2 * n + 1];
}

/// Re(a x)
HWY_INLINE float real_product(const Split& a, const Split& x, int64_t padded) {
  auto sum = hn::Zero(kF32);
  for (int64_t n = 0; n < padded; n += static_cast<int64_t>(hn::Lanes(kF32))) {
    sum = hn::MulAdd(hn::Load(kF32, a.re + n), hn::Load(kF32, x.re + n), sum);
    sum = hn::NegMulAdd(hn::Load(kF32, a.im + n), hn::Load(kF32, x.im + n), sum);
  }
  return hn::GetLane(hn::SumOfLanes(kF32, sum));
}

/// x = q x + beta u
HWY_INLINE void advance(const Split& q, const Split& beta, float u, const Split& x, int64_t padded) {
  const auto u_all = hn::Set(kF32, u);
  for (int64_t n = 0; n < padded; n += static_cast<int64_t>(hn::Lanes(kF32))) {
    const auto q_re = hn::Load(kF32, q.re + n), q_im = hn::Load(kF32, q.im + n);
    const auto re = hn::Load(kF32, x.re + n), im = hn::Load(kF32, x.im + n);
    const auto in_re = hn::Mul(hn::Load(kF32, beta.re + n), u_all), in_im = hn::Mul(hn::Load(kF32, beta.im + n), u_all);
    hn::Store(hn::NegMulAdd(q_im, im, hn::MulAdd(q_re, re, in_re)), kF32, x.re + n);
    hn::Store(hn::MulAdd(q_im, re, hn::MulAdd(q_re, im, in_im)), kF32, x.im + n);
  }
}

/// x -= w s
HWY_INLINE void subtract(const Split& w, float s, const Split& x, int64_t padded) {
  const auto s_all = hn::Set(kF32, s);
  for (int64_t n = 0; n < padded; n += static_cast<int64_t>(hn::Lanes(kF32))) {
    hn::Store(hn::NegMulAdd(hn::Load(kF32, w.re + n), s_all, hn::Load(kF32, x.re + n)), kF32, x.re + n);
    hn::Store(hn::NegMulAdd(hn::Load(kF32, w.im + n), s_all, hn::Load(kF32, x.im + n)), kF32, x.im + n);
  }
}

/// Memory of one task: q, beta, c, x, and f and w of every rank.
class Workspace {
 public:
  Workspace(int64_t N, int64_t R)
      : padded_(whole_vectors(N)),
        floats_(hwy::AllocateAligned<float>(static_cast<size_t>(2 * padded_ * (4 + 2 * R)))) {}
  Split at(int64_t i) const { return {floats_.get() + 2 * i * padded_, floats_.get() + (2 * i + 1) * padded_}; }
  int64_t padded() const { return padded_; }

 private:
  int64_t padded_;
  hwy::AlignedFreeUniquePtr<float[]> floats_;
};

HWY_INLINE void run_feature(const NplrRecurrenceInputs& in, const NplrRecurrenceOutputs& out, int64_t b, int64_t d,
                            const Workspace& space, float* s) {
  const int64_t N = in.N, R = in.R, row = 2 * d * N, state = 2 * (b * in.D + d) * N;
  const Split q = space.at(0), beta = space.at(1), c = space.at(2), x = space.at(3);
  const auto f = [&](int64_t r) { return space.at(4 + 2 * r); };
  const auto w = [&](int64_t r) { return space.at(5 + 2 * r); };
  load_split(in.q + row, N, q);
  load_split(in.beta + row, N, beta);
  load_split(in.c + row, N, c);
  load_split(in.x0 == nullptr ? nullptr : in.x0 + state, N, x);
  for (int64_t r = 0; r < R; ++r) {
    load_split(in.f + 2 * r * in.D * N + row, N, f(r));
    load_split(in.w + 2 * r * in.D * N + row, N, w(r));
  }
  for (int64_t t = 0; t < in.L; ++t) {
    const int64_t at = (b * in.L + t) * in.D + d;
    const float u = in.u[at];
    if (in.starts != nullptr && in.starts[b * in.L + t]) load_split(nullptr, N, x);
    for (int64_t r = 0; r < R; ++r) s[r] = 2 * real_product(f(r), x, space.padded()) + in.phi[r * in.D + d] * u;
    advance(q, beta, u, x, space.padded());
    for (int64_t r = 0; r < R; ++r) subtract(w(r), s[r], x, space.padded());
    out.y[at] = 2 * real_product(c, x, space.padded()) + in.skip[d] * u;
  }
  for (int64_t n = 0; out.x != nullptr && n < N; ++n)
    out.x[state + 2 * n] = x.re[n], out.x[state + 2 * n + 1] = x.im[n];
}

void run_features(const NplrRecurrenceInputs& in, const NplrRecurrenceOutputs& out, int64_t b, int64_t first,
                  int64_t last) {
  const Workspace space(in.N, in.R);
  const auto s = hwy::AllocateAligned<float>(static_cast<size_t>(in.R));
  for (int64_t d = first; d < last; ++d) run_feature(in, out, b, d, space, s.get());
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {
HWY_EXPORT(run_features);
}

void nplr_recurrence_cpu(const NplrRecurrenceInputs& in, const NplrRecurrenceOutputs& out) {
  // At least so many features to a task, which share the cache lines of u and y, and so many states over all steps: 10
  // us of work, below which a thread does not pay.
  constexpr int64_t kFeatures = 16, kStates = 1 << 14;
  const int64_t features = std::max(kFeatures, kStates / (in.L * in.N)), groups = (in.D + features - 1) / features;
  parallel_for(in.B * groups, [&](int64_t task) {
    const FlushDenormals flush;
    const int64_t first = task % groups * features;
    HWY_DYNAMIC_DISPATCH(run_features)(in, out, task / groups, first, std::min(first + features, in.D));
  });
}

}  // namespace megalodon::ops
#endif
