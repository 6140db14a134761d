// CPU kernels of timestep_norm; timestep_norm_kernel.h has the equations and says how the work is split.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/timestep_norm/timestep_norm_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "ops/row_norm/affine.h"
#include "ops/row_norm/run_math-inl.h"
#include "ops/timestep_norm/group_math-inl.h"
#include "ops/timestep_norm/timestep_norm_kernel.h"

#ifndef MEGALODON_TIMESTEP_NORM_SLAB
#define MEGALODON_TIMESTEP_NORM_SLAB
namespace megalodon::ops {
namespace {

/// The groups [begin, end) of batch row b.
struct Slab {
  int64_t b, begin, end;
  int64_t groups() const { return end - begin; }
};

const float* floats(const void* numbers) {
  return static_cast<const float*>(numbers);
}

float* floats(void* numbers) {
  return static_cast<float*>(numbers);
}

/// While one step is computed, the memory of this many steps on is fetched. Steps of a slab lie apart, and processors
/// foresee only what is near: without, two threads on halves of 4 KiB took as long as one on the whole.
constexpr int64_t kStepsAhead = 1;  // two push each other out of the nearest cache where rows are 4 KiB apart

void prefetch_to_write(const void* memory) {
  __builtin_prefetch(memory, 1);
}

bool flag(const bool* flags_BL, const TimestepNormArgs& a, int64_t b, int64_t t) {
  return flags_BL != nullptr && flags_BL[b * a.L + t];
}

}  // namespace
}  // namespace megalodon::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {

using NarrowFloats = hn::Rebind<float, Doubles>;  // as many floats as a vector has doubles

/// One array per quantity, one entry per group of a slab.
template <class T, size_t kArrays>
class PerGroup {
 public:
  explicit PerGroup(const Slab& slab)
      : size_(padded_groups(slab.groups())), numbers_(static_cast<size_t>(size_) * kArrays) {}
  T* operator[](size_t array) { return numbers_.data() + static_cast<int64_t>(array) * size_; }

 private:
  int64_t size_;
  std::vector<T> numbers_;
};

/// The running statistics of a slab's groups, and what one step adds to them and takes from them.
struct Statistics {
  explicit Statistics(const Slab& slab) : groups(slab.groups()), doubles(slab), floats(slab) {}

  int64_t groups;
  PerGroup<double, 3> doubles;
  PerGroup<float, 5> floats;
  double *mean = doubles[0], *var = doubles[1];                   // of all steps so far
  double* m = doubles[2];                                         // mean of this step
  float *center = floats[0], *squares = floats[1];                // m rounded, and Σ (x − center)²
  float *hi = floats[2], *rstd = floats[3], *offset = floats[4];  // y = ((x − hi) rstd + offset) scale + shift
};

/// m and center of the step.
HWY_INLINE void step_means(const float* x, int64_t K, Statistics& s) {
  const Doubles d;
  const NarrowFloats narrow;
  group_means(x, s.groups, K, s.m);
  for (int64_t g = 0; g < s.groups; g += static_cast<int64_t>(hn::Lanes(d)))
    hn::StoreU(hn::DemoteTo(narrow, hn::LoadU(d, s.m + g)), narrow, s.center + g);
}

/// Merges one step, of which m and squares are known, into the running statistics, now of n steps.
HWY_INLINE void merge_step(int64_t n, int64_t K, Statistics& s) {
  const Doubles d;
  const NarrowFloats narrow;
  const auto count = static_cast<double>(n);
  const auto part = hn::Set(d, 1.0 / count), rest = hn::Set(d, (count - 1.0) / count);
  const auto size = hn::Set(d, static_cast<double>(K));
  for (int64_t g = 0; g < s.groups; g += static_cast<int64_t>(hn::Lanes(d))) {
    const auto m = hn::LoadU(d, s.m + g);
    // The variance about m and not about center, from which m differs by half a bit of float32 at most.
    const auto left = hn::Sub(m, hn::PromoteTo(d, hn::LoadU(narrow, s.center + g)));
    const auto square = hn::Div(hn::PromoteTo(d, hn::LoadU(narrow, s.squares + g)), size);
    const auto v = hn::NegMulAdd(left, left, square);
    if (n == 1) {  // copied and not merged: nothing of what was before may leave a trace, not even a rounding
      hn::StoreU(m, d, s.mean + g);
      hn::StoreU(v, d, s.var + g);
      continue;
    }
    const auto mean = hn::LoadU(d, s.mean + g), var = hn::LoadU(d, s.var + g);
    const auto delta = hn::Sub(m, mean);
    const auto spread = hn::MulAdd(hn::Mul(delta, rest), delta, hn::Sub(v, var));
    hn::StoreU(hn::MulAdd(delta, part, mean), d, s.mean + g);
    hn::StoreU(hn::MulAdd(spread, part, var), d, s.var + g);
  }
}

/// The two floats of a mean, hi + lo, and what subtracting lo and multiplying by rstd comes to: −lo · rstd.
template <class V, class F>
HWY_INLINE void store_mean(V mean, F rstd, float* hi, float* offset) {
  const Doubles d;
  const NarrowFloats narrow;
  const auto upper = hn::DemoteTo(narrow, mean);
  const auto lower = hn::DemoteTo(narrow, hn::Sub(mean, hn::PromoteTo(d, upper)));
  hn::StoreU(upper, narrow, hi);
  hn::StoreU(hn::Neg(hn::Mul(lower, rstd)), narrow, offset);
}

/// What normalizes a step. 1/sqrt(var + eps) in float32: a float64 root and division would take a third of the whole
/// kernel's time.
HWY_INLINE void normalizers(double eps, Statistics& s) {
  const Doubles d;
  const NarrowFloats narrow;
  for (int64_t g = 0; g < s.groups; g += static_cast<int64_t>(hn::Lanes(d))) {
    const auto sum = hn::DemoteTo(narrow, hn::Add(hn::LoadU(d, s.var + g), hn::Set(d, eps)));
    const auto rstd = hn::Div(hn::Set(narrow, 1.0f), hn::Sqrt(sum));
    hn::StoreU(rstd, narrow, s.rstd + g);
    store_mean(hn::LoadU(d, s.mean + g), rstd, s.hi + g, s.offset + g);
  }
}

/// One step of a slab, of which y is to be computed.
struct Step {
  const float* x;
  float* y;
  int64_t ahead;  // to the step that is fetched meanwhile
  const float *hi, *rstd, *offset;
  const float *scale, *shift;
};

HWY_INLINE void normalize_step(const Step& step, const GroupTable& table, int64_t groups) {
  for_each_vectors(table, groups, [&](auto d, int64_t begin, int64_t end, auto lanes) HWY_ATTR {
    const Step s = step;  // a copy of its own can be in registers, which stores of floats leave alone
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d)), lanes.next()) {
      hwy::Prefetch(s.x + i + s.ahead);
      prefetch_to_write(s.y + i + s.ahead);
      const auto c = hn::Sub(hn::LoadU(d, s.x + i), lanes.of(s.hi));
      const auto normal = hn::MulAdd(c, lanes.of(s.rstd), lanes.of(s.offset));
      hn::StoreU(hn::MulAdd(normal, hn::LoadU(d, s.scale + i), hn::LoadU(d, s.shift + i)), d, s.y + i);
    }
  });
}

void timestep_norm_forward_slab(const TimestepNormArgs& a, const Affine& affine, const TimestepNormResult& out,
                                const Slab& slab) {
  const int64_t groups = slab.groups(), K = a.K, first = slab.b * a.G + slab.begin;
  const float *scale = &affine.scale[slab.begin * K], *shift = &affine.shift[slab.begin * K];
  const GroupTable table(K);
  Statistics s(slab);
  int64_t n = a.count0 != nullptr ? a.count0[slab.b] : 0;
  for (int64_t g = 0; g < groups; ++g) s.mean[g] = a.mean0 != nullptr ? a.mean0[first + g] : 0.0;
  for (int64_t g = 0; g < groups; ++g) s.var[g] = a.var0 != nullptr ? a.var0[first + g] : 1.0;

  for (int64_t t = 0; t < a.L; ++t) {
    const int64_t at = (slab.b * a.L + t) * a.G + slab.begin;  // of the slab's first group in [B,L,G]
    if (flag(a.starts, a, slab.b, t)) {
      n = 0;
      std::fill_n(s.mean, groups, 0.0);
      std::fill_n(s.var, groups, 1.0);
    }
    if (flag(a.mask, a, slab.b, t)) {
      std::fill_n(floats(out.y) + at * K, groups * K, 0.0f);
      continue;
    }
    const float* x = floats(a.x) + at * K;
    const int64_t ahead = std::min(kStepsAhead, a.L - 1 - t) * a.G * K;
    step_means(x, K, s);
    group_squares(x, groups, K, s.center, s.squares);
    merge_step(++n, K, s);
    normalizers(a.eps, s);
    normalize_step({x, floats(out.y) + at * K, ahead, s.hi, s.rstd, s.offset, scale, shift}, table, groups);
    if (out.mean_BLG == nullptr) continue;
    std::copy_n(s.mean, groups, out.mean_BLG + at);
    std::copy_n(s.rstd, groups, out.rstd_BLG + at);
  }
  std::copy_n(s.mean, groups, out.mean + first);
  std::copy_n(s.var, groups, out.var + first);
  if (slab.begin == 0) out.count[slab.b] = n;
}

/// What of one step's gradient goes through the statistics, group by group, and what reaches the step before.
struct StatisticsGradient {
  explicit StatisticsGradient(const Slab& slab) : groups(slab.groups()), doubles(slab), floats(slab) {}

  int64_t groups;
  PerGroup<double, 3> doubles;
  PerGroup<float, 8> floats;
  double *mean = doubles[0], *var = doubles[1];                   // M and V of the header
  double* center = doubles[2];                                    // mean of all steps so far, as the forward saved it
  float *hi = floats[0], *rstd = floats[1], *offset = floats[2];  // as in Statistics
  Sums<float*> sums{floats[3], floats[4], floats[5]};             // of the step, about hi
  float *constant = floats[6], *slope = floats[7];                // dx = rstd g + constant + slope (x − hi)
};

/// Takes over what the forward saved of a step.
HWY_INLINE void load_statistics(const double* mean, const float* rstd, StatisticsGradient& s) {
  const Doubles d;
  std::copy_n(mean, s.groups, s.center);
  std::copy_n(rstd, s.groups, s.rstd);
  for (int64_t g = 0; g < s.groups; g += static_cast<int64_t>(hn::Lanes(d)))
    store_mean(hn::LoadU(d, s.center + g), hn::LoadU(NarrowFloats(), s.rstd + g), s.hi + g, s.offset + g);
}

HWY_INLINE void scan_gradient_step(int64_t n, int64_t K, StatisticsGradient& s) {
  const Doubles d;
  const NarrowFloats narrow;
  const auto of = [&](const float* numbers) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(narrow, numbers)); };
  const auto count = static_cast<double>(n);
  const auto size = hn::Set(d, static_cast<double>(K)), half = hn::Set(d, 0.5);
  const auto rest = hn::Set(d, (count - 1.0) / count), part = hn::Set(d, 1.0 / (count * static_cast<double>(K)));
  for (int64_t g = 0; g < s.groups; g += static_cast<int64_t>(hn::Lanes(d))) {
    const auto lo = hn::Sub(hn::LoadU(d, s.center + g), of(s.hi + g)), rstd = of(s.rstd + g);
    const auto sum_g = of(s.sums.g + g), sum_gc = hn::NegMulAdd(lo, sum_g, of(s.sums.gc + g));
    const auto sum_c = hn::NegMulAdd(lo, size, of(s.sums.c + g));
    const auto cube = hn::Mul(hn::Mul(rstd, rstd), rstd);
    const auto mean = hn::NegMulAdd(rstd, sum_g, hn::LoadU(d, s.mean + g));
    const auto var = hn::NegMulAdd(hn::Mul(half, cube), sum_gc, hn::LoadU(d, s.var + g));
    const auto slope = hn::Mul(hn::Add(var, var), part);
    hn::StoreU(hn::DemoteTo(narrow, hn::NegMulAdd(slope, lo, hn::Mul(mean, part))), narrow, s.constant + g);
    hn::StoreU(hn::DemoteTo(narrow, slope), narrow, s.slope + g);
    hn::StoreU(hn::NegMulAdd(slope, sum_c, hn::Mul(mean, rest)), d, s.mean + g);
    hn::StoreU(hn::Mul(var, rest), d, s.var + g);
  }
}

/// One step of a slab, of which the gradients are to be computed.
struct GradientStep {
  const float *x, *dy;
  float* dx;
  int64_t ahead;  // to the step that is fetched meanwhile, which is the one before
  const float *hi, *rstd, *offset, *constant, *slope;
  const float* scale;
  float *dscale, *dshift;
};

/// dx of one step; with kParameters also adds to dscale and dshift.
template <bool kParameters>
HWY_INLINE void step_gradient(const GradientStep& step, const GroupTable& table, int64_t groups) {
  for_each_vectors(table, groups, [&](auto d, int64_t begin, int64_t end, auto lanes) HWY_ATTR {
    const GradientStep s = step;  // as in normalize_step()
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d)), lanes.next()) {
      hwy::Prefetch(s.x + i + s.ahead);
      hwy::Prefetch(s.dy + i + s.ahead);
      prefetch_to_write(s.dx + i + s.ahead);
      const auto dy = hn::LoadU(d, s.dy + i), c = hn::Sub(hn::LoadU(d, s.x + i), lanes.of(s.hi));
      const auto rstd = lanes.of(s.rstd), through = hn::MulAdd(lanes.of(s.slope), c, lanes.of(s.constant));
      hn::StoreU(hn::MulAdd(hn::Mul(dy, hn::LoadU(d, s.scale + i)), rstd, through), d, s.dx + i);
      if constexpr (!kParameters) continue;
      const auto normal = hn::MulAdd(c, rstd, lanes.of(s.offset));
      hn::StoreU(hn::MulAdd(dy, normal, hn::LoadU(d, s.dscale + i)), d, s.dscale + i);
      hn::StoreU(hn::Add(dy, hn::LoadU(d, s.dshift + i)), d, s.dshift + i);
    }
  });
}

/// `steps` holds n after each step and 0 at masked ones.
void timestep_norm_backward_slab(const TimestepNormArgs& a, const Affine& affine, const TimestepNormGradients& out,
                                 const int64_t* steps, AffineTotals totals, const Slab& slab) {
  const int64_t groups = slab.groups(), K = a.K, first = slab.b * a.G + slab.begin;
  const float* scale = &affine.scale[slab.begin * K];
  const GroupTable table(K);
  StatisticsGradient s(slab);
  std::copy_n(out.dmean + first, groups, s.mean);
  std::copy_n(out.dvar + first, groups, s.var);
  AffineGradient parameters(totals, groups * K);

  for (int64_t t = a.L - 1; t >= 0; --t) {
    const int64_t at = (slab.b * a.L + t) * a.G + slab.begin, n = steps[slab.b * a.L + t];
    const float *x = floats(a.x) + at * K, *dy = floats(out.dy) + at * K;
    float* dx = floats(out.dx) + at * K;
    if (n > 0) {
      load_statistics(out.mean_BLG + at, out.rstd_BLG + at, s);
      group_gradient_sums(x, dy, scale, groups, K, s.hi, s.sums);
      scan_gradient_step(n, K, s);
      const int64_t ahead = -std::min(kStepsAhead, t) * a.G * K;
      const bool wanted = parameters.wanted();
      const GradientStep step = {x,
                                 dy,
                                 dx,
                                 ahead,
                                 s.hi,
                                 s.rstd,
                                 s.offset,
                                 s.constant,
                                 s.slope,
                                 scale,
                                 wanted ? parameters.dscale() : nullptr,
                                 wanted ? parameters.dshift() : nullptr};
      wanted ? step_gradient<true>(step, table, groups) : step_gradient<false>(step, table, groups);
      parameters.row_done();
    } else {
      std::fill_n(dx, groups * K, 0.0f);
    }
    if (n == 1 || flag(a.starts, a, slab.b, t)) {
      std::fill_n(s.mean, groups, 0.0);
      std::fill_n(s.var, groups, 0.0);
    }
  }
  parameters.flush();
  std::copy_n(s.mean, groups, out.dmean0 + first);
  std::copy_n(s.var, groups, out.dvar0 + first);
}

}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(timestep_norm_forward_slab);
HWY_EXPORT(timestep_norm_backward_slab);

/// Groups per slab: a share for every thread, between one cache line (narrower ones would share lines) and 4 KiB of a
/// step. Wide slabs are faster, for memory is read in longer runs.
int64_t slab_groups(const TimestepNormArgs& a) {
  const int64_t share = a.B * a.G / omp_get_max_threads();
  return std::min(a.G, std::clamp(share, (15 + a.K) / a.K, (1023 + a.K) / a.K));
}

/// Calls task(slab) for every slab.
template <class Task>
void for_each_slab(const TimestepNormArgs& a, const Task& task) {
  const bool serial = a.B * a.L * a.G * a.K < kSerialElements;
  const int64_t step = serial ? a.G : slab_groups(a), slabs = (a.G + step - 1) / step;
  const auto run = [&](int64_t i) {
    const int64_t begin = i % slabs * step;
    task(Slab{i / slabs, begin, std::min(a.G, begin + step)});
  };
  if (serial) {
    for (int64_t b = 0; b < a.B; ++b) run(b);
  } else {
    parallel_for(a.B * slabs, run);
  }
}

/// n after each step, 0 at masked steps.
std::vector<int64_t> count_steps(const TimestepNormArgs& a) {
  std::vector<int64_t> steps(static_cast<size_t>(a.B * a.L));
  for (int64_t b = 0; b < a.B; ++b) {
    int64_t n = a.count0 != nullptr ? a.count0[b] : 0;
    for (int64_t t = 0; t < a.L; ++t) {
      if (flag(a.starts, a, b, t)) n = 0;
      if (!flag(a.mask, a, b, t)) steps[b * a.L + t] = ++n;
    }
  }
  return steps;
}

}  // namespace

void timestep_norm_forward_cpu(const TimestepNormArgs& args, const TimestepNormResult& result) {
  const Affine affine(args.weight, args.bias, args.G * args.K);
  const auto forward = HWY_DYNAMIC_DISPATCH(timestep_norm_forward_slab);
  for_each_slab(args, [&](const Slab& slab) { forward(args, affine, result, slab); });
}

void timestep_norm_backward_cpu(const TimestepNormArgs& args, const TimestepNormGradients& gradients) {
  const int64_t size = args.G * args.K;
  const Affine affine(args.weight, nullptr, size);
  const std::vector<int64_t> steps = count_steps(args);
  const bool wanted = gradients.dweight != nullptr || gradients.dbias != nullptr;
  AffinePartials partials(wanted ? args.B : 0, size);
  const auto backward = HWY_DYNAMIC_DISPATCH(timestep_norm_backward_slab);
  for_each_slab(args, [&](const Slab& slab) {
    const int64_t feature = slab.begin * args.K;
    const AffineTotals totals =
        wanted ? AffineTotals{partials.dscale(slab.b, feature), partials.dshift(slab.b, feature)} : AffineTotals{};
    backward(args, affine, gradients, steps.data(), totals, slab);
  });
  partials.sum(gradients.dweight, gradients.dbias);
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
