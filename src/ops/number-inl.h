// Vectors of float32 from and to memory that holds float32 or bfloat16. Highway "-inl" header: compiled once per CPU
// target, included by *_cpu.cc only.
#if defined(MEGALODON_NUMBER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGALODON_NUMBER_INL_H_
#undef MEGALODON_NUMBER_INL_H_
#else
#define MEGALODON_NUMBER_INL_H_
#endif

#include "hwy/highway.h"
#include "ops/number.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const float* from) {
  return hwy::HWY_NAMESPACE::LoadU(d, from);
}

template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> load(D d, const Bfloat16* from) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<uint16_t, D> half;
  const hn::Rebind<uint32_t, D> whole;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(whole, hn::LoadU(half, &from->bits))));
}

template <class D>
HWY_INLINE void store(hwy::HWY_NAMESPACE::Vec<D> x, D d, float* to) {
  hwy::HWY_NAMESPACE::StoreU(x, d, to);
}

/// The bits of x, of which the upper half is x rounded to bfloat16: to the nearest, ties to even, as the tensor library
/// does. (Highway 1.0's own conversion cuts off.)
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<hwy::HWY_NAMESPACE::Rebind<uint32_t, D>> round_upper_half(
    D /*d*/, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<uint32_t, D> whole;
  const auto bits = hn::BitCast(whole, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(whole, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(whole, 0x7fffu)));
  const auto nan = hn::Or(bits, hn::Set(whole, 0x400000u));  // rounding could carry it to infinity
  return hn::IfThenElse(hn::RebindMask(whole, hn::IsNaN(x)), nan, rounded);
}

template <class D>
HWY_INLINE void store(hwy::HWY_NAMESPACE::Vec<D> x, D d, Bfloat16* to) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<uint16_t, D> half;
  const hn::Rebind<int32_t, D> with_sign;
  const auto upper = hn::ShiftRight<16>(round_upper_half(d, x));
  hn::StoreU(hn::DemoteTo(half, hn::BitCast(with_sign, upper)), half, &to->bits);
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
