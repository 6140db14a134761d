// The rotation of adjacent pairs, shared by rotary and query_key. Highway "-inl" header: compiled once per CPU target,
// included by *_cpu.cc only.
#if defined(MEGALODON_ROTATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGALODON_ROTATE_INL_H_
#undef MEGALODON_ROTATE_INL_H_
#else
#define MEGALODON_ROTATE_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "ops/number-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR  // has no interleaved loads
template <class D, class V>
HWY_INLINE void load_pairs(D d, const float* from, V& even, V& odd) {
  hwy::HWY_NAMESPACE::LoadInterleaved2(d, from, even, odd);
}

template <class D, class V>
HWY_INLINE void store_pairs(V even, V odd, D d, float* to) {
  hwy::HWY_NAMESPACE::StoreInterleaved2(even, odd, d, to);
}

/// A pair of bfloat16 is one word of 32 bits, the even one in its lower half.
template <class D, class V>
HWY_INLINE void load_pairs(D d, const Bfloat16* from, V& even, V& odd) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<uint32_t, D> whole;
  const hn::Repartition<uint16_t, decltype(whole)> halves;
  const auto pair = hn::BitCast(whole, hn::LoadU(halves, &from->bits));
  even = hn::BitCast(d, hn::ShiftLeft<16>(pair));
  odd = hn::BitCast(d, hn::And(pair, hn::Set(whole, 0xffff0000u)));
}

template <class D, class V>
HWY_INLINE void store_pairs(V even, V odd, D d, Bfloat16* to) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<uint32_t, D> whole;
  const hn::Repartition<uint16_t, decltype(whole)> halves;
  const auto lower = hn::ShiftRight<16>(round_upper_half(d, even));
  const auto upper = hn::And(round_upper_half(d, odd), hn::Set(whole, 0xffff0000u));
  hn::StoreU(hn::BitCast(halves, hn::Or(upper, lower)), halves, &to->bits);
}
#endif

/// y_2i = x_2i cos_i − x_2i+1 sin_i, y_2i+1 = x_2i sin_i + x_2i+1 cos_i. X and Y are float or Bfloat16.
template <class X, class Y>
HWY_INLINE void rotate_pairs(const X* x, const float* cosine, const float* sine, int64_t pairs, Y* y) {
  namespace hn = hwy::HWY_NAMESPACE;
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (; i + lanes <= pairs; i += lanes) {
    hn::Vec<decltype(d)> even, odd;
    load_pairs(d, x + 2 * i, even, odd);
    const auto c = hn::LoadU(d, cosine + i), s = hn::LoadU(d, sine + i);
    store_pairs(hn::NegMulAdd(odd, s, hn::Mul(even, c)), hn::MulAdd(even, s, hn::Mul(odd, c)), d, y + 2 * i);
  }
#endif
  const hn::CappedTag<float, 1> one;
  for (; i < pairs; ++i) {
    const float even = hn::GetLane(load(one, x + 2 * i)), odd = hn::GetLane(load(one, x + 2 * i + 1));
    store(hn::Set(one, even * cosine[i] - odd * sine[i]), one, y + 2 * i);
    store(hn::Set(one, even * sine[i] + odd * cosine[i]), one, y + 2 * i + 1);
  }
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
