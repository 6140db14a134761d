// CPU kernels of timestep_norm; timestep_norm_kernel.h has the equations and says how the work is split.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/timestep_norm/timestep_norm_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "hwy/highway.h"
#include "ops/row_norm/affine.h"
#include "ops/row_norm/run_math-inl.h"
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

/// One array per quantity, one entry per group of a slab, with room for whole vectors.
template <class T>
std::vector<T> per_group(const Slab& slab) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(Doubles()));
  return std::vector<T>(static_cast<size_t>((slab.groups() + lanes - 1) / lanes * lanes));
}

/// Merges mean m and variance v of one step into the running ones, now of n > 1 steps.
HWY_INLINE void merge_step(int64_t n, const std::vector<double>& m, const std::vector<double>& v,
                           std::vector<double>& mean, std::vector<double>& var) {
  const Doubles d;
  const auto count = static_cast<double>(n);
  const auto part = hn::Set(d, 1.0 / count), rest = hn::Set(d, (count - 1.0) / count);
  for (size_t g = 0; g < m.size(); g += hn::Lanes(d)) {
    const auto old_mean = hn::LoadU(d, &mean[g]), old_var = hn::LoadU(d, &var[g]);
    const auto delta = hn::Sub(hn::LoadU(d, &m[g]), old_mean);
    const auto spread = hn::MulAdd(hn::Mul(delta, rest), delta, hn::Sub(hn::LoadU(d, &v[g]), old_var));
    hn::StoreU(hn::MulAdd(delta, part, old_mean), d, &mean[g]);
    hn::StoreU(hn::MulAdd(spread, part, old_var), d, &var[g]);
  }
}

/// 1/sqrt(var + eps), in float32: a float64 root and division would take a third of the whole kernel's time.
HWY_INLINE void reciprocal_deviations(const std::vector<double>& var, double eps, std::vector<float>& rstd) {
  const Doubles d;
  const NarrowFloats narrow;
  for (size_t g = 0; g < var.size(); g += hn::Lanes(d)) {
    const auto sum = hn::DemoteTo(narrow, hn::Add(hn::LoadU(d, &var[g]), hn::Set(d, eps)));
    hn::StoreU(hn::Div(hn::Set(narrow, 1.0f), hn::Sqrt(sum)), narrow, &rstd[g]);
  }
}

void timestep_norm_forward_slab(const TimestepNormArgs& a, const Affine& affine, const TimestepNormResult& out,
                                const Slab& slab) {
  const int64_t groups = slab.groups(), K = a.K, first = slab.b * a.G + slab.begin;
  auto m = per_group<double>(slab), v = per_group<double>(slab), mean = per_group<double>(slab),
       var = per_group<double>(slab);
  auto rstd = per_group<float>(slab);
  int64_t n = a.count0 != nullptr ? a.count0[slab.b] : 0;
  for (int64_t g = 0; g < groups; ++g) mean[g] = a.mean0 != nullptr ? a.mean0[first + g] : 0.0;
  for (int64_t g = 0; g < groups; ++g) var[g] = a.var0 != nullptr ? a.var0[first + g] : 1.0;

  for (int64_t t = 0; t < a.L; ++t) {
    const int64_t at = (slab.b * a.L + t) * a.G + slab.begin;  // of the slab's first group in [B,L,G]
    if (flag(a.starts, a, slab.b, t)) {
      n = 0;
      std::fill(mean.begin(), mean.end(), 0.0);
      std::fill(var.begin(), var.end(), 1.0);
    }
    if (flag(a.mask, a, slab.b, t)) {
      std::fill_n(floats(out.y) + at * K, groups * K, 0.0f);
      continue;
    }
    const float* x = floats(a.x) + at * K;
    for (int64_t g = 0; g < groups; ++g) {
      m[g] = run_mean(x + g * K, K);
      v[g] = run_variance(x + g * K, split(m[g]), K);
    }
    if (++n == 1) {  // copied and not merged: nothing of what was before may leave a trace, not even a rounding
      mean = m;
      var = v;
    } else {
      merge_step(n, m, v, mean, var);
    }
    reciprocal_deviations(var, a.eps, rstd);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t feature = (slab.begin + g) * K;
      normalize_run(x + g * K, split(mean[g]), rstd[g], &affine.scale[feature], &affine.shift[feature],
                    floats(out.y) + (at + g) * K, K);
    }
    if (out.mean_BLG == nullptr) continue;
    std::copy_n(mean.begin(), groups, out.mean_BLG + at);
    std::copy_n(rstd.begin(), groups, out.rstd_BLG + at);
  }
  std::copy_n(mean.begin(), groups, out.mean + first);
  std::copy_n(var.begin(), groups, out.var + first);
  if (slab.begin == 0) out.count[slab.b] = n;
}

/// What of one step's gradient goes through the statistics, group by group, and what reaches the step before.
struct StatisticsGradient {
  std::vector<double> mean, var;             // M and V of the header
  std::vector<double> sum_g, sum_gc, sum_c;  // GradientSums of the step
  std::vector<double> rstd;
  std::vector<double> constant, slope;  // of the step's dx
};

HWY_INLINE void scan_gradient_step(int64_t n, int64_t K, StatisticsGradient& s) {
  const Doubles d;
  const auto count = static_cast<double>(n);
  const auto rest = hn::Set(d, (count - 1.0) / count), part = hn::Set(d, 1.0 / (count * static_cast<double>(K)));
  const auto half = hn::Set(d, 0.5);
  for (size_t g = 0; g < s.mean.size(); g += hn::Lanes(d)) {
    const auto rstd = hn::LoadU(d, &s.rstd[g]);
    const auto cube = hn::Mul(hn::Mul(rstd, rstd), rstd);
    const auto mean = hn::NegMulAdd(rstd, hn::LoadU(d, &s.sum_g[g]), hn::LoadU(d, &s.mean[g]));
    const auto var = hn::NegMulAdd(hn::Mul(half, cube), hn::LoadU(d, &s.sum_gc[g]), hn::LoadU(d, &s.var[g]));
    const auto slope = hn::Mul(hn::Add(var, var), part);
    hn::StoreU(hn::Mul(mean, part), d, &s.constant[g]);
    hn::StoreU(slope, d, &s.slope[g]);
    hn::StoreU(hn::NegMulAdd(slope, hn::LoadU(d, &s.sum_c[g]), hn::Mul(mean, rest)), d, &s.mean[g]);
    hn::StoreU(hn::Mul(var, rest), d, &s.var[g]);
  }
}

/// `steps` holds n after each step and 0 at masked ones.
void timestep_norm_backward_slab(const TimestepNormArgs& a, const Affine& affine, const TimestepNormGradients& out,
                                 const int64_t* steps, AffineTotals totals, const Slab& slab) {
  const int64_t groups = slab.groups(), K = a.K, first = slab.b * a.G + slab.begin;
  const auto zeros = per_group<double>(slab);
  StatisticsGradient s{zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros};
  std::copy_n(out.dmean + first, groups, s.mean.begin());
  std::copy_n(out.dvar + first, groups, s.var.begin());
  AffineGradient parameters(totals, groups * K);
  const float* scale = &affine.scale[slab.begin * K];

  for (int64_t t = a.L - 1; t >= 0; --t) {
    const int64_t at = (slab.b * a.L + t) * a.G + slab.begin, n = steps[slab.b * a.L + t];
    const float *x = floats(a.x) + at * K, *dy = floats(out.dy) + at * K;
    if (n > 0) {
      for (int64_t g = 0; g < groups; ++g) {
        const GradientSums sums = gradient_sums(x + g * K, split(out.mean_BLG[at + g]), dy + g * K, scale + g * K, K);
        s.sum_g[g] = sums.g;
        s.sum_gc[g] = sums.gc;
        s.sum_c[g] = sums.c;
        s.rstd[g] = out.rstd_BLG[at + g];
      }
      scan_gradient_step(n, K, s);
      for (int64_t g = 0; g < groups; ++g) {
        const SplitMean mean = split(out.mean_BLG[at + g]);
        const RunGradient run{out.rstd_BLG[at + g], static_cast<float>(s.constant[g]), static_cast<float>(s.slope[g])};
        input_gradient(x + g * K, mean, dy + g * K, scale + g * K, run, floats(out.dx) + (at + g) * K, K);
        if (!parameters.wanted()) continue;
        parameter_gradient(x + g * K, mean, run.rstd, dy + g * K, parameters.dscale() + g * K,
                           parameters.dshift() + g * K, K);
      }
      parameters.row_done();
    } else {
      std::fill_n(floats(out.dx) + at * K, groups * K, 0.0f);
    }
    if (n == 1 || flag(a.starts, a, slab.b, t)) {
      std::fill(s.mean.begin(), s.mean.end(), 0.0);
      std::fill(s.var.begin(), s.var.end(), 0.0);
    }
  }
  parameters.flush();
  std::copy_n(s.mean.begin(), groups, out.dmean0 + first);
  std::copy_n(s.var.begin(), groups, out.dvar0 + first);
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
/// step. Wide slabs are faster, for memory is read in longer runs: [1,2048,1024] takes 1.2 ms on one thread in slabs of
/// 4 KiB, 1.6 ms of 2 KiB, 1.8 ms of 1 KiB.
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
