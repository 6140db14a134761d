// The exponential of softmax. Highway "-inl" header: compiled once per CPU target, included by *_cpu.cc only.
#if defined(MEGALODON_OPS_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGALODON_OPS_EXP_INL_H_
#undef MEGALODON_OPS_EXP_INL_H_
#else
#define MEGALODON_OPS_EXP_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {

/// e^x for x <= 0 (a little above does no harm) within 2 ulp; NaN stays NaN. Taylor's sum to r^7 leaves
/// 5e-9 at |r| = ln 2 / 2.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> exp_nonpositive(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  using V = hn::Vec<D>;
  const auto c = [d](float value) HWY_ATTR { return hn::Set(d, value); };
  const V n = hn::Round(hn::Mul(x, c(1.44269504f)));
  const V r = hn::NegMulAdd(n, c(-2.12194440e-4f), hn::NegMulAdd(n, c(0.693359375f), x));  // ln 2 in two parts
  V p = c(1.0f / 5040);
  p = hn::MulAdd(p, r, c(1.0f / 720));
  p = hn::MulAdd(p, r, c(1.0f / 120));
  p = hn::MulAdd(p, r, c(1.0f / 24));
  p = hn::MulAdd(p, r, c(1.0f / 6));
  p = hn::MulAdd(p, r, c(0.5f));
  p = hn::MulAdd(p, r, c(1.0f));
  p = hn::MulAdd(p, r, c(1.0f));
  const hn::RebindToSigned<D> di;
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  return hn::IfThenElse(hn::Lt(x, c(-87.0f)), hn::Zero(d), hn::Mul(p, hn::BitCast(d, exponent)));
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
