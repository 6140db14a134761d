// CPU kernels of query_key; query_key_kernel.h says how the work is split. A head of one token is small: its passes
// (statistics, affine maps, rotations) read and write buffers that stay in L1.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/query_key/query_key_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "hwy/highway.h"
#include "ops/query_key/query_key_kernel.h"
#include "ops/rotary/rotary_table.h"
#include "ops/rotary/rotate-inl.h"
#include "ops/row_norm/affine.h"
#include "ops/row_norm/run_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {

constexpr SplitMean kNoMean{0, 0};

/// Float32 numbers as they are, others by way of the buffer.
inline const float* as_float(const float* x, int64_t /*size*/, float* /*buffer*/) {
  return x;
}
HWY_INLINE const float* as_float(const Bfloat16* x, int64_t size, float* buffer) {
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) hn::StoreU(load(d, x + i), d, buffer + i);
  });
  return buffer;
}

HWY_INLINE float inverse_rms(const QueryKeyArgs& a, const float* z) {
  return static_cast<float>(1.0 / std::sqrt(run_variance(z, kNoMean, a.head_dim) + a.eps));
}

template <class Z, class Y>
void forward_of_type(const QueryKeyArgs& a, const QueryKeyResults& results, const RotaryTable& table, int64_t begin,
                     int64_t end) {
  const int64_t K = a.head_dim, row = a.heads * K;
  std::vector<float> wide(K), affine(K);
  for (int64_t token = begin; token < end; ++token) {
    for (int64_t at = 0; at < row; at += K) {
      const float* z = as_float(static_cast<const Z*>(a.z) + token * row + at, K, wide.data());
      const float rstd = inverse_rms(a, z);
      for (const int64_t i : {0, 1}) {
        normalize_run(z, kNoMean, rstd, a.scale + i * row + at, a.shift + i * row + at, affine.data(), K);
        Y* y = static_cast<Y*>(i == 0 ? results.q : results.k) + token * row + at;
        rotate_pairs(affine.data(), table.cosine(token), table.sine(token), K / 2, y);
      }
    }
  }
}

/// du = gq · scale_q + gk · scale_k. Returns Σ du z.
HWY_INLINE double unit_gradient(const float* z, const float* gq, const float* gk, const float* scale_q,
                                const float* scale_k, float* du, int64_t size) {
  double dot = 0;
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
      const auto of_q = hn::Mul(hn::LoadU(d, gq + i), hn::LoadU(d, scale_q + i));
      const auto both = hn::MulAdd(hn::LoadU(d, gk + i), hn::LoadU(d, scale_k + i), of_q);
      hn::StoreU(both, d, du + i);
      sum = hn::MulAdd(both, hn::LoadU(d, z + i), sum);
    }
    dot += hn::GetLane(hn::SumOfLanes(d, sum));
  });
  return dot;
}

/// dz = du · rstd + slope · z
template <class Z>
HWY_INLINE void projection_gradient(const float* z, const float* du, float rstd, float slope, Z* dz, int64_t size) {
  for_each_span<float>(size, [&](auto d, int64_t begin, int64_t end) HWY_ATTR {
    const auto along_z = hn::Set(d, slope), factor = hn::Set(d, rstd);
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d)))
      store(hn::MulAdd(hn::LoadU(d, du + i), factor, hn::Mul(along_z, hn::LoadU(d, z + i))), d, dz + i);
  });
}

template <class Z, class Y>
void backward_of_type(const QueryKeyArgs& a, const QueryKeyGradients& out, const RotaryTable& table,
                      AffineTotals totals, int64_t begin, int64_t end) {
  const int64_t K = a.head_dim, row = a.heads * K;
  std::vector<float> wide(K), du(K), gq(K), gk(K);
  AffineGradient parameters(totals, 2 * row);
  for (int64_t token = begin; token < end; ++token) {
    const float *cosine = table.cosine(token), *sine = table.sine(token);
    for (int64_t at = 0; at < row; at += K) {
      const int64_t first = token * row + at;
      const float* z = as_float(static_cast<const Z*>(a.z) + first, K, wide.data());
      rotate_pairs(static_cast<const Y*>(out.dq) + first, cosine, sine, K / 2, gq.data());
      rotate_pairs(static_cast<const Y*>(out.dk) + first, cosine, sine, K / 2, gk.data());
      const float rstd = inverse_rms(a, z);
      const double dot = unit_gradient(z, gq.data(), gk.data(), a.scale + at, a.scale + row + at, du.data(), K);
      const double slope = -dot * std::pow(static_cast<double>(rstd), 3) / static_cast<double>(K);
      projection_gradient(z, du.data(), rstd, static_cast<float>(slope), static_cast<Z*>(out.dz) + first, K);
      for (const int64_t i : {0, 1})
        parameter_gradient(z, kNoMean, rstd, i == 0 ? gq.data() : gk.data(), parameters.dscale() + i * row + at,
                           parameters.dshift() + i * row + at, K);
    }
    parameters.row_done();
  }
  parameters.flush();
}

/// Calls run(Z, Y) with numbers of the arguments' types.
template <class Run>
void with_types(const QueryKeyArgs& a, const Run& run) {
  const auto with_y = [&](auto z) {
    if (a.y_type == NumberType::kFloat32)
      run(z, float());
    else
      run(z, Bfloat16());
  };
  if (a.z_type == NumberType::kFloat32)
    with_y(float());
  else
    with_y(Bfloat16());
}

void forward_tokens(const QueryKeyArgs& a, const QueryKeyResults& results, const RotaryTable& table, int64_t begin,
                    int64_t end) {
  with_types(a, [&](auto z, auto y) { forward_of_type<decltype(z), decltype(y)>(a, results, table, begin, end); });
}

void backward_tokens(const QueryKeyArgs& a, const QueryKeyGradients& out, const RotaryTable& table, AffineTotals totals,
                     int64_t begin, int64_t end) {
  with_types(a, [&](auto z, auto y) { backward_of_type<decltype(z), decltype(y)>(a, out, table, totals, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(forward_tokens);
HWY_EXPORT(backward_tokens);

// At least 16 Ki elements a block so that a task outweighs its scheduling; at most 128 blocks so that the partial sums
// of scale's and shift's gradients stay small beside z.
int64_t tokens_per_block(const QueryKeyArgs& a) {
  return std::max((int64_t{1} << 14) / std::max<int64_t>(a.heads * a.head_dim, 1) + 1, (a.tokens + 127) / 128);
}

/// Calls task(block, first token, end) for every block.
template <class Task>
void for_each_block(const QueryKeyArgs& a, const Task& task) {
  const int64_t step = tokens_per_block(a), blocks = (a.tokens + step - 1) / step;
  const auto run = [&](int64_t block) { task(block, block * step, std::min(a.tokens, (block + 1) * step)); };
  if (a.tokens * a.heads * a.head_dim < kSerialElements) {
    for (int64_t block = 0; block < blocks; ++block) run(block);
  } else {
    parallel_for(blocks, run);
  }
}

}  // namespace

void query_key_forward_cpu(const QueryKeyArgs& args, const QueryKeyResults& results) {
  const RotaryTable table(args.position, args.tokens, args.frequencies, args.head_dim / 2, /*inverse=*/false);
  const auto tokens = HWY_DYNAMIC_DISPATCH(forward_tokens);
  for_each_block(args, [&](int64_t, int64_t begin, int64_t end) { tokens(args, results, table, begin, end); });
}

void query_key_backward_cpu(const QueryKeyArgs& args, const QueryKeyGradients& gradients) {
  const RotaryTable table(args.position, args.tokens, args.frequencies, args.head_dim / 2, /*inverse=*/true);
  const auto tokens = HWY_DYNAMIC_DISPATCH(backward_tokens);
  const int64_t blocks = (args.tokens + tokens_per_block(args) - 1) / tokens_per_block(args);
  AffinePartials partials(blocks, 2 * args.heads * args.head_dim);
  for_each_block(args, [&](int64_t block, int64_t begin, int64_t end) {
    tokens(args, gradients, table, {partials.dscale(block), partials.dshift(block)}, begin, end);
  });
  partials.sum(gradients.dscale, gradients.dshift);
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
