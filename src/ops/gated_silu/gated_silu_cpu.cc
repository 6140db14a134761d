// Elementwise with one exponential: 12 bytes move per element forward, 20 backward (half of it in bfloat16), so beyond
// the caches this runs at the speed of memory. Tasks are blocks of elements; the last block's rest goes through vectors
// of one lane, same arithmetic.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gated_silu/gated_silu_cpu.cc"
// Highway wants this order, which is not the alphabet's.
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include <algorithm>

#include "base/parallel.h"
#include "ops/gated_silu/gated_silu_kernel.h"
#include "ops/number-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class V>
struct Sigmoid {
  V value, rest;  // sigmoid(a) and 1 − sigmoid(a)
};

/// e^-|a| lies in [0, 1] whatever a is: no overflow, and full relative precision of both results.
template <class D, class V = hn::Vec<D>>
HWY_INLINE Sigmoid<V> sigmoid(D d, V a) {
  const V one = hn::Set(d, 1.0F), e = hn::Exp(d, hn::Neg(hn::Abs(a)));
  const V large = hn::Div(one, hn::Add(one, e)), small = hn::Mul(e, large);
  const auto positive = hn::Ge(a, hn::Zero(d));
  return {hn::IfThenElse(positive, large, small), hn::IfThenElse(positive, small, large)};
}

/// Calls body(tag, i) so that every element of [begin, end) is in exactly one vector.
template <class Body>
HWY_INLINE void for_each_vector(int64_t begin, int64_t end, const Body& body) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> single;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(d, i);
  for (; i < end; ++i) body(single, i);
}

template <bool kGated, class A, class B>
void forward_block(const GatedSiluForwardArgs& args, int64_t begin, int64_t end) {
  const auto* a_data = static_cast<const A*>(args.a);
  const auto* b_data = static_cast<const B*>(args.b);
  auto* h_data = static_cast<A*>(args.h);
  for_each_vector(begin, end, [&](auto d, int64_t i) HWY_ATTR {
    const auto a = load(d, a_data + i);
    auto h = hn::Mul(a, sigmoid(d, a).value);
    if constexpr (kGated) h = hn::Mul(h, load(d, b_data + i));
    store(h, d, h_data + i);
  });
}

template <bool kGated, class A, class B>
void backward_block(const GatedSiluBackwardArgs& args, int64_t begin, int64_t end) {
  const auto *a_data = static_cast<const A*>(args.a), *dh_data = static_cast<const A*>(args.dh);
  const auto* b_data = static_cast<const B*>(args.b);
  auto* da_data = static_cast<A*>(args.da);
  auto* db_data = static_cast<B*>(args.db);
  for_each_vector(begin, end, [&](auto d, int64_t i) HWY_ATTR {
    const auto a = load(d, a_data + i), dh = load(d, dh_data + i);
    const auto s = sigmoid(d, a);
    auto da = hn::Mul(hn::Mul(dh, s.value), hn::MulAdd(a, s.rest, hn::Set(d, 1.0F)));
    if constexpr (kGated) {
      da = hn::Mul(da, load(d, b_data + i));
      store(hn::Mul(dh, hn::Mul(a, s.value)), d, db_data + i);
    }
    store(da, d, da_data + i);
  });
}

/// Calls run(A, B) with numbers of the arguments' types.
template <class Args, class Run>
void with_types(const Args& args, const Run& run) {
  if (args.a_type == NumberType::kFloat32)
    run(float(), float());
  else if (args.b_type == NumberType::kFloat32)
    run(Bfloat16(), float());
  else
    run(Bfloat16(), Bfloat16());
}

void forward(const GatedSiluForwardArgs& args, int64_t begin, int64_t end) {
  with_types(args, [&](auto a, auto b) {
    using A = decltype(a);
    using B = decltype(b);
    (args.b != nullptr ? forward_block<true, A, B> : forward_block<false, A, B>)(args, begin, end);
  });
}

void backward(const GatedSiluBackwardArgs& args, int64_t begin, int64_t end) {
  with_types(args, [&](auto a, auto b) {
    using A = decltype(a);
    using B = decltype(b);
    (args.b != nullptr ? backward_block<true, A, B> : backward_block<false, A, B>)(args, begin, end);
  });
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

/// Calls run(begin, end) for blocks of 16 Ki elements: some 10 µs of work, and whole vectors in all but the last.
template <class Run>
void for_each_block(int64_t size, const Run& run) {
  constexpr int64_t kBlock = 1 << 14;
  parallel_for((size + kBlock - 1) / kBlock,
               [&](int64_t block) { run(block * kBlock, std::min(size, (block + 1) * kBlock)); });
}

}  // namespace

void gated_silu_forward_cpu(const GatedSiluForwardArgs& args) {
  for_each_block(args.size, [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(forward)(args, begin, end); });
}

void gated_silu_backward_cpu(const GatedSiluBackwardArgs& args) {
  for_each_block(args.size, [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(backward)(args, begin, end); });
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
