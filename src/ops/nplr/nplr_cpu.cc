// One task is one feature. Vectors run along the nodes, where 1/d takes a dozen operations and one division, and each
// of K sums four multiply-adds; a feature's N states are a loop inside. The backward pass computes 1/d again and keeps
// its sums over nodes as N vectors in L1, which are added up at the end.
//
// Work per node, state and feature: 12 + 8 K operations and a division forward, 30 + 16 K and a division backward.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/nplr/nplr_cpu.cc"
#include <hwy/foreach_target.h>
// foreach_target.h comes first
#include <hwy/aligned_allocator.h>
#include <hwy/highway.h>

#include <algorithm>

#include "base/parallel.h"
#include "ops/nplr/nplr_kernel.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using V = hn::Vec<F32>;

constexpr F32 kF32;

HWY_INLINE int64_t lanes() {
  return static_cast<int64_t>(hn::Lanes(kF32));
}

/// A vector of nodes, filled up with θ = π, where d = −4 whatever a is.
struct Nodes {
  V c, t;
};

HWY_INLINE V load_some(const float* from, int64_t count, float otherwise) {
  if (count >= lanes()) return hn::LoadU(kF32, from);
  HWY_ALIGN float some[hn::MaxLanes(kF32)];
  for (int64_t i = 0; i < lanes(); ++i) some[i] = i < count ? from[i] : otherwise;
  return hn::Load(kF32, some);
}

HWY_INLINE void store_some(V v, int64_t count, float* to) {
  if (count >= lanes()) return hn::StoreU(v, kF32, to);
  HWY_ALIGN float some[hn::MaxLanes(kF32)];
  hn::Store(v, kF32, some);
  std::copy_n(some, count, to);
}

HWY_INLINE Nodes load_nodes(const CauchyInputs& in, int64_t m) {
  return {load_some(in.cos + m, in.M - m, 0), load_some(in.two_sin + m, in.M - m, 2)};
}

struct Complex {
  V re, im;
};

/// 1/d = conj(d)/|d|², with Re d as a sum of products whose factors do not cancel where d is small.
HWY_INLINE Complex inverse(const Nodes& node, float re, float im) {
  const V c_im = hn::Mul(node.c, hn::Set(kF32, im)), decay = hn::Mul(node.c, hn::Set(kF32, re));
  const V low = hn::Sub(node.t, c_im), high = hn::Add(node.t, c_im), square = hn::Mul(decay, decay);
  const V norm = hn::Mul(hn::MulAdd(low, low, square), hn::MulAdd(high, high, square));
  const V one_over = hn::Div(hn::Set(kF32, 1.0F), norm);
  return {hn::Mul(hn::NegMulAdd(low, high, square), one_over),
          hn::Mul(hn::Mul(hn::Add(node.t, node.t), decay), one_over)};
}

/// Pairs k .. k + Count - 1 of one feature at one vector of nodes.
template <int64_t Count>
HWY_INLINE void sum_pairs(const CauchyInputs& in, int64_t h, int64_t m, int64_t k, float* rho_re, float* rho_im) {
  const Nodes node = load_nodes(in, m);
  V x_re[Count], x_im[Count], y_re[Count], y_im[Count];
  for (int64_t i = 0; i < Count; ++i) x_re[i] = x_im[i] = y_re[i] = y_im[i] = hn::Zero(kF32);
  for (int64_t n = h * in.N; n < (h + 1) * in.N; ++n) {
    const Complex inv = inverse(node, in.re[n], in.im[n]);
    for (int64_t i = 0; i < Count; ++i) {
      const V x = hn::Set(kF32, in.x[n * in.K + k + i]), y = hn::Set(kF32, in.y[n * in.K + k + i]);
      x_re[i] = hn::MulAdd(inv.re, x, x_re[i]);
      x_im[i] = hn::MulAdd(inv.im, x, x_im[i]);
      y_re[i] = hn::MulAdd(inv.re, y, y_re[i]);
      y_im[i] = hn::MulAdd(inv.im, y, y_im[i]);
    }
  }
  const V two = hn::Set(kF32, 2.0F);
  for (int64_t i = 0; i < Count; ++i) {
    const int64_t at = (h * in.K + k + i) * in.M + m;
    const V re = hn::MulAdd(node.t, x_im[i], hn::Mul(node.c, y_re[i]));
    const V im = hn::NegMulAdd(node.c, y_im[i], hn::Mul(node.t, x_re[i]));
    store_some(hn::Neg(hn::Mul(two, re)), in.M - m, rho_re + at);
    store_some(hn::Mul(two, im), in.M - m, rho_im + at);
  }
}

void forward_feature(const CauchyInputs& in, int64_t h, float* rho_re, float* rho_im) {
  for (int64_t m = 0; m < in.M; m += lanes()) {
    int64_t k = 0;
    for (; k + 4 <= in.K; k += 4) sum_pairs<4>(in, h, m, k, rho_re, rho_im);
    for (; k < in.K; ++k) sum_pairs<1>(in, h, m, k, rho_re, rho_im);
  }
}

/// Adds a vector of nodes to the sums of state n: of x, y, Re a and Im a, [K, K, 1, 1][lanes].
HWY_INLINE void add_gradients(const CauchyInputs& in, int64_t n, const Nodes& node, const float* g, float* sums) {
  const Complex inv = inverse(node, in.re[n], in.im[n]);
  const auto add = [&](int64_t row, V v) {
    hn::Store(hn::Add(hn::Load(kF32, sums + row * lanes()), v), kF32, sums + row * lanes());
  };
  V g_re = hn::Zero(kF32), g_im = hn::Zero(kF32);  // of 1/d, by -2
  for (int64_t k = 0; k < in.K; ++k) {
    // t Re G, t Im G, c Re G and c Im G.
    const float* of_k = g + 4 * k * lanes();
    const V t_re = hn::Load(kF32, of_k), t_im = hn::Load(kF32, of_k + lanes());
    const V c_re = hn::Load(kF32, of_k + 2 * lanes()), c_im = hn::Load(kF32, of_k + 3 * lanes());
    add(k, hn::NegMulAdd(t_re, inv.im, hn::Mul(t_im, inv.re)));
    add(in.K + k, hn::MulAdd(c_re, inv.re, hn::Mul(c_im, inv.im)));
    const V x = hn::Set(kF32, in.x[n * in.K + k]), y = hn::Set(kF32, in.y[n * in.K + k]);
    g_re = hn::NegMulAdd(x, t_im, hn::MulAdd(y, c_re, g_re));
    g_im = hn::MulAdd(x, t_re, hn::MulAdd(y, c_im, g_im));
  }
  // q = conj(g)/d², of which -1 and the -2 of g make 2; dd/dRe a = 2 c (c Re a - i t), dd/dIm a = 2 c c Im a.
  const V s_re = hn::NegMulAdd(inv.im, inv.im, hn::Mul(inv.re, inv.re));
  const V s_im = hn::Mul(hn::Add(inv.re, inv.re), inv.im);
  const V q_re = hn::MulAdd(g_im, s_im, hn::Mul(g_re, s_re)), q_im = hn::NegMulAdd(g_im, s_re, hn::Mul(g_re, s_im));
  const V c_q = hn::Mul(node.c, q_re);
  const V of_re = hn::MulAdd(hn::Mul(node.c, hn::Set(kF32, in.re[n])), q_re, hn::Mul(node.t, q_im));
  add(2 * in.K, hn::Mul(node.c, of_re));
  add(2 * in.K + 1, hn::Mul(hn::Mul(node.c, hn::Set(kF32, in.im[n])), c_q));
}

void backward_feature(const CauchyInputs& in, const CauchyGradients& grad, int64_t h) {
  const int64_t rows = 2 * in.K + 2, size = rows * lanes();
  const auto sums = hwy::AllocateAligned<float>(static_cast<size_t>(in.N * size + 4 * in.K * lanes()));
  float* const g = sums.get() + in.N * size;
  std::fill_n(sums.get(), in.N * size, 0.0F);
  for (int64_t m = 0; m < in.M; m += lanes()) {
    const Nodes node = load_nodes(in, m);
    for (int64_t k = 0; k < in.K; ++k) {
      const int64_t at = (h * in.K + k) * in.M + m;
      const V re = load_some(grad.g_re + at, in.M - m, 0), im = load_some(grad.g_im + at, in.M - m, 0);
      float* const of_k = g + 4 * k * lanes();
      hn::Store(hn::Mul(node.t, re), kF32, of_k);
      hn::Store(hn::Mul(node.t, im), kF32, of_k + lanes());
      hn::Store(hn::Mul(node.c, re), kF32, of_k + 2 * lanes());
      hn::Store(hn::Mul(node.c, im), kF32, of_k + 3 * lanes());
    }
    for (int64_t n = 0; n < in.N; ++n) add_gradients(in, h * in.N + n, node, g, sums.get() + n * size);
  }
  for (int64_t n = 0; n < in.N; ++n) {
    const auto sum = [&](int64_t row) {
      return hn::GetLane(hn::SumOfLanes(kF32, hn::Load(kF32, sums.get() + n * size + row * lanes())));
    };
    const int64_t of_n = h * in.N + n;
    for (int64_t k = 0; k < in.K; ++k) {
      grad.x[of_n * in.K + k] = 2 * sum(k);
      grad.y[of_n * in.K + k] = -2 * sum(in.K + k);
    }
    grad.re[of_n] = 4 * sum(2 * in.K);
    grad.im[of_n] = 4 * sum(2 * in.K + 1);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {
HWY_EXPORT(forward_feature);
HWY_EXPORT(backward_feature);
}  // namespace

void cauchy_forward_cpu(const CauchyInputs& in, float* rho_re, float* rho_im) {
  parallel_for(in.H, [&](int64_t h) { HWY_DYNAMIC_DISPATCH(forward_feature)(in, h, rho_re, rho_im); });
}

void cauchy_backward_cpu(const CauchyInputs& in, const CauchyGradients& grad) {
  parallel_for(in.H, [&](int64_t h) { HWY_DYNAMIC_DISPATCH(backward_feature)(in, grad, h); });
}

}  // namespace megalodon::ops
#endif
