// As many Philox counters at once as a vector has lanes, four elements a counter: some 10 multiplications of 32 bits an
// element. Blocks of 16 Ki elements per task; the mask is the scalar Philox's, bit for bit, which makes what is left
// over of the last block. On two cores of a Zen 5 (AVX-512): one counter at a time 3.7 GB/s, one vector of counters 19,
// two in turns 33.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/dropout/dropout_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>

#include "base/parallel.h"
#include "base/philox.h"
#include "hwy/highway.h"
#include "ops/dropout/dropout_kernel.h"
#include "ops/number-inl.h"

#ifndef MEGALODON_DROPOUT_FACTORS
#define MEGALODON_DROPOUT_FACTORS
namespace megalodon::ops {
namespace {

constexpr int64_t kBlock = 1 << 14;  // a multiple of any vector's four; 64 KiB of floats, well inside L2

/// Calls use(index, factor) for every element of [begin, end); begin is a multiple of 4.
template <class Use>
void for_each_factor(int64_t begin, int64_t end, double p, uint64_t key, const Use& use) {
  // Uniforms are multiples of 2^-24, so comparing against p in float32 drops with probability p to within 2^-24.
  const auto threshold = static_cast<float>(p);
  const double keep = 1.0 / (1.0 - p);
  for (int64_t i = begin; i < end; i += 4) {
    const Philox4 bits = philox(key, static_cast<uint64_t>(i) / 4);
    for (int64_t j = i; j < std::min(end, i + 4); ++j) use(j, philox_uniform(bits[j - i]) >= threshold ? keep : 0.0);
  }
}

}  // namespace
}  // namespace megalodon::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Words = hn::RebindToUnsigned<Floats>;

#if HWY_TARGET != HWY_SCALAR  // one lane has no even and odd ones
using Word = hn::Vec<Words>;

/// The halves of 64-bit products.
struct Product {
  Word high, low;
};

HWY_INLINE Product multiply(Word a, uint32_t b) {
  const Words d;
  const hn::RepartitionToWide<Words> wide;
  const auto factor = hn::Set(d, b);
  const auto even = hn::MulEven(a, factor);
  const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(wide, a))), factor);
  return {hn::OddEven(hn::BitCast(d, odd), hn::BitCast(d, hn::ShiftRight<32>(even))), hn::Mul(a, factor)};
}

/// philox() of neighbouring counters, one a lane, of which the upper halves are the same. All of it is one chain of
/// dependent instructions.
class PhiloxLanes {
 public:
  explicit HWY_INLINE PhiloxLanes(uint64_t counter) {
    const Words d;
    word[0] = hn::Iota(d, static_cast<uint32_t>(counter));
    word[1] = hn::Set(d, static_cast<uint32_t>(counter >> 32));
    word[2] = word[3] = hn::Zero(d);
  }

  HWY_INLINE void round(uint32_t k0, uint32_t k1) {
    const Words d;
    const Product product0 = multiply(word[0], 0xD2511F53), product1 = multiply(word[2], 0xCD9E8D57);
    word[0] = hn::Xor(hn::Xor(product1.high, word[1]), hn::Set(d, k0));
    word[1] = product1.low;
    word[2] = hn::Xor(hn::Xor(product0.high, word[3]), hn::Set(d, k1));
    word[3] = product0.low;
  }

  Word word[4];
};

/// All ten rounds of both, in turns: they do not wait for each other.
HWY_INLINE void all_rounds(uint64_t key, PhiloxLanes& a, PhiloxLanes& b) {
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    a.round(k0, k1);
    b.round(k0, k1);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
}

/// philox_uniform(bits) >= threshold ? keep : 0
HWY_INLINE hn::Vec<Floats> factor(Word bits, float threshold, float keep) {
  const Floats d;
  const hn::RebindToSigned<Floats> integers;
  const auto uniform = hn::Mul(hn::ConvertTo(d, hn::BitCast(integers, hn::ShiftRight<8>(bits))), hn::Set(d, 0x1p-24f));
  return hn::IfThenElseZero(hn::Ge(uniform, hn::Set(d, threshold)), hn::Set(d, keep));
}

/// y of the elements from `begin` on that these counters are for.
template <class T>
HWY_INLINE void drop_lanes(const DropoutArgs& args, const PhiloxLanes& bits, int64_t begin) {
  const Floats d;
  constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(Floats()));
  const auto threshold = static_cast<float>(args.p), keep = static_cast<float>(1.0 / (1.0 - args.p));
  HWY_ALIGN float factors[4 * kLanes];
  hn::StoreInterleaved4(factor(bits.word[0], threshold, keep), factor(bits.word[1], threshold, keep),
                        factor(bits.word[2], threshold, keep), factor(bits.word[3], threshold, keep), d, factors);
  for (int64_t i = 0; i < 4 * kLanes; i += kLanes) {
    const auto x = load(d, static_cast<const T*>(args.x) + begin + i);
    store(hn::Mul(x, hn::Load(d, factors + i)), d, static_cast<T*>(args.y) + begin + i);
  }
}

/// Drops from [begin, end) as far as pairs of vectors of counters go, and returns where they end.
template <class T>
int64_t drop_vectors(const DropoutArgs& args, int64_t begin, int64_t end) {
  constexpr auto kFours = 4 * static_cast<int64_t>(hn::MaxLanes(Floats()));
  for (; begin + 2 * kFours <= end; begin += 2 * kFours) {
    PhiloxLanes a(static_cast<uint64_t>(begin) / 4), b(static_cast<uint64_t>(begin + kFours) / 4);
    all_rounds(args.key, a, b);
    drop_lanes<T>(args, a, begin);
    drop_lanes<T>(args, b, begin + kFours);
  }
  return begin;
}
#else
template <class T>
int64_t drop_vectors(const DropoutArgs&, int64_t begin, int64_t) {
  return begin;
}
#endif

template <class T>
void drop_range(const DropoutArgs& args, int64_t begin, int64_t end) {
  const hn::CappedTag<float, 1> single;
  begin = drop_vectors<T>(args, begin, end);
  for_each_factor(begin, end, args.p, args.key, [&](int64_t i, double keep_or_0) HWY_ATTR {
    const auto x = load(single, static_cast<const T*>(args.x) + i);
    store(hn::Mul(x, hn::Set(single, static_cast<float>(keep_or_0))), single, static_cast<T*>(args.y) + i);
  });
}

void drop_block(const DropoutArgs& args, int64_t begin, int64_t end) {
  (args.type == NumberType::kFloat32 ? drop_range<float> : drop_range<Bfloat16>)(args, begin, end);
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(drop_block);

/// Calls run(begin, end) for every block.
template <class Run>
void for_each_block(int64_t size, const Run& run) {
  parallel_for((size + kBlock - 1) / kBlock,
               [&](int64_t block) { run(block * kBlock, std::min(size, (block + 1) * kBlock)); });
}

}  // namespace

void dropout_cpu(const DropoutArgs& args) {
  for_each_block(args.size, [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(drop_block)(args, begin, end); });
}

void dropout_mask_cpu(double* mask, int64_t size, double p, uint64_t key) {
  for_each_block(size, [&](int64_t begin, int64_t end) {
    for_each_factor(begin, end, p, key, [&](int64_t i, double factor) { mask[i] = factor; });
  });
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
