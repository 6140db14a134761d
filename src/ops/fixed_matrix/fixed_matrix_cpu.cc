// Products with float32 rows of x. One row runs at the speed of memory: a task is a run of blocks of rows of W, whose
// bytes it reads one after the other, once; all rows of x are multiplied while they are in the cache, and meanwhile the
// next block is fetched. Outputs are lanes, so that no sum crosses them.
//
// q8 and q4 multiply bytes: the integers of a group add up exactly, and their sum is scaled by s of the output and that
// of x. vpdpbusd wants one side without sign, which q4's codes have not, and q8's are stored without: the 128 too much
// are taken off the sum first. Elsewhere bytes are widened and multiplied in pairs, with the same sums. A block of 16
// rows and 1,024 inputs takes 17 KiB (q8) or 10 KiB (q4), so that it stays in the cache for all rows of x, and 256 rows
// of x, a byte a number, do so for all blocks.
//
// Measured on 2 cores of an AMD EPYC (Zen 5), W from memory.
//   one row of x, share of the read bandwidth    float32  bfloat16  q8    q4
//     W [32000,1024]                             0.82     0.93      0.98  0.88
//     W [2560,1024], 10 to 1.6 MB                0.87     0.71      0.74  0.55
//   16 rows, time in units of one row's          2.1      1.7 – 2   2.3 – 2.7  2.6 – 3.4
// Tried with 16 rows and W [2560,1024], GFLOP/s:
//   q8 and q4 in pairs of 16 bits, 512-bit vectors       279   312
//   by vpdpbusd                                          425   547
//   and the next block fetched meanwhile                 689   757
//   bfloat16 widened to float32                          207
//   by vdpbf16ps, and the next block fetched             397
// One row of q8 takes 10 to 30 % longer where the next block is fetched by instruction; one of bfloat16 5 to 9 % less.
// With 2,048 rows 925 (q8) and 946 (q4), where the library makes 738 of bfloat16.
#define HWY_WANT_AVX3_DL 1  // the target of processors with dot products of bytes
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/fixed_matrix/fixed_matrix_cpu.cc"
// Highway wants this order, which is not the alphabet's.
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/parallel.h"
#include "ops/fixed_matrix/fixed_matrix_kernel.h"
#include "ops/number-inl.h"

#ifndef MEGALODON_FIXED_MATRIX_CPU_
#define MEGALODON_FIXED_MATRIX_CPU_
namespace megalodon::ops {

/// 32 inputs of a row of x as integers of magnitudes up to 127 times the scale.
struct GroupOfX {
  float scale, sum;  // sum: of the integers, times the scale
  int32_t offset;    // −128 times the sum of the integers, as codes of q8 are 128 too large
};

/// x as the kernels read it. Rows are as long as those of W's records, filled up with zeros.
struct PreparedX {
  int64_t stride, groups;        // of a row: numbers; groups of 32
  bool pairs;                    // for bfloat16: the processor has dot products of such numbers
  std::vector<float> floats;     // for float32 and bfloat16; pairs are bfloat16, in the lower half of each row
  std::vector<int16_t> codes;    // for q8 and q4; or int8_t, in the lower half
  std::vector<GroupOfX> scales;  // for q8 and q4
};

/// Brings the next block's bytes into the cache while this one is multiplied: each pass over the block, of which
/// there is one for every few rows of x, brings its share of the records. One row of q8 or q4 goes without: the
/// processor reads ahead by itself then.
struct Ahead {
  static constexpr int64_t kNever = int64_t{1} << 62;
  int64_t distance;       // from a byte of this block to that of the next
  int64_t passes, until;  // the next record of this pass

  void fetch(const uint8_t* bytes, int64_t size) {
    if (--until > 0) return;
    until = passes;
    for (int64_t i = 0; i < size; i += 64) __builtin_prefetch(bytes + distance + i, 0, 2);  // into the second level
  }
};

}  // namespace megalodon::ops
#endif

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
// Highway 1.0 asks for all that this target has but the instruction that its name stands for.
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#endif
namespace megalodon::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, 16>;
using Ints = hn::RebindToSigned<Floats>;
using Words = hn::RebindToUnsigned<Floats>;
using V = hn::Vec<Floats>;
constexpr int64_t kLanes = hn::MaxLanes(Floats());

HWY_INLINE hn::Vec<Words> load_words(const uint8_t* bytes) {
  return hn::LoadU(Words(), reinterpret_cast<const uint32_t*>(bytes));
}
HWY_INLINE V upper_half(hn::Vec<Words> words) {
  return hn::BitCast(Floats(), hn::And(words, hn::Set(Words(), 0xffff0000u)));
}
HWY_INLINE V lower_half(hn::Vec<Words> words) {
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(words));
}

/// y of the outputs [o, o + kLanes), of which W may have some or none.
HWY_INLINE void finish(const FixedProduct& p, int64_t m, int64_t o, V y) {
  const Floats d;
  float* to = p.y + m * p.w.O + o;
  const float* addend = p.addend == nullptr ? nullptr : p.addend + m * p.w.O + o;
  if (o + kLanes <= p.w.O) {
    if (p.bias != nullptr) y = hn::Add(y, hn::LoadU(d, p.bias + o));
    if (addend != nullptr) y = hn::Add(y, hn::LoadU(d, addend));
    hn::StoreU(y, d, to);
    return;
  }
  HWY_ALIGN float rest[kLanes];
  hn::Store(y, d, rest);
  for (int64_t i = 0; i < p.w.O - o; ++i) {
    if (p.bias != nullptr) rest[i] += p.bias[o + i];
    if (addend != nullptr) rest[i] += addend[i];
    to[i] = rest[i];
  }
}

// ---- float32 and bfloat16 ----------------------------------------------------------------------------------------

constexpr int64_t kVectors = 4;                                  // of outputs at a time
constexpr int64_t kMostFloatRows = HWY_MAX_BYTES == 64 ? 6 : 2;  // as many sums as registers hold

/// How a word of W is multiplied: one float32; two bfloat16, one after the other; two at once.
enum class Mode { kOne, kTwo, kPair };

void prepare_floats(const FixedProduct& p, PreparedX& to, int64_t m) {
  const Floats d;
  float* row = to.floats.data() + m * to.stride;
  std::copy_n(p.x + m * p.w.I, p.w.I, row);
  if (p.w.type == FixedType::kFloat32) return;
#if HWY_TARGET == HWY_AVX3_DL
  if (to.pairs) {
    auto* numbers = reinterpret_cast<Bfloat16*>(row);  // written behind what is still to be read
    for (int64_t i = 0; i < to.stride; i += kLanes) store(hn::LoadU(d, row + i), d, numbers + i);
    return;
  }
#endif
  for (int64_t i = 0; i < to.stride; i += kLanes)
    hn::StoreU(upper_half(round_upper_half(d, hn::LoadU(d, row + i))), d, row + i);
}

template <Mode kMode>
HWY_INLINE V add_product(V sum, hn::Vec<Words> w, V x, V second_x) {
  if constexpr (kMode == Mode::kOne) return hn::MulAdd(hn::BitCast(Floats(), w), x, sum);
  if constexpr (kMode == Mode::kTwo) return hn::MulAdd(upper_half(w), second_x, hn::MulAdd(lower_half(w), x, sum));
#if HWY_TARGET == HWY_AVX3_DL
  auto raw = sum.raw;
  asm("vdpbf16ps %2, %1, %0" : "+v"(raw) : "v"(w.raw), "v"(x.raw));  // not all processors of this target have it
  return V{raw};
#endif
}

template <Mode kMode, int64_t kRows>
void multiply_floats(const FixedProduct& p, const PreparedX& prepared, int64_t block, int64_t row, Ahead ahead) {
  constexpr int64_t kBlock = 64, kStep = kBlock * 4;
  const int64_t stride = prepared.stride, steps = kMode == Mode::kOne ? p.w.I : (p.w.I + 1) / 2;
  for (int64_t first = 0; first < kBlock; first += kVectors * kLanes) {
    V sums[kRows][kVectors];
    for (auto& row_sums : sums)
      for (V& sum : row_sums) sum = hn::Zero(Floats());
    const uint8_t* words = p.w.bytes + block * p.w.block_bytes() + first * 4;
    const float* x = prepared.floats.data() + row * stride;
    for (int64_t step = 0; step < steps; ++step, words += kStep, x += kMode == Mode::kTwo ? 2 : 1) {
      if (first == 0) ahead.fetch(words, kStep);
      hn::Vec<Words> w[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) w[v] = load_words(words + v * kLanes * 4);
      for (int64_t m = 0; m < kRows; ++m) {
        const V one = hn::Set(Floats(), x[m * stride]);
        const V two = kMode == Mode::kTwo ? hn::Set(Floats(), x[m * stride + 1]) : one;
        for (int64_t v = 0; v < kVectors; ++v) sums[m][v] = add_product<kMode>(sums[m][v], w[v], one, two);
      }
    }
    for (int64_t m = 0; m < kRows; ++m)
      for (int64_t v = 0; v < kVectors; ++v) finish(p, row + m, block * kBlock + first + v * kLanes, sums[m][v]);
  }
}

// ---- q8 and q4 -----------------------------------------------------------------------------------------------------

// Four products of bytes at once: weights without sign in the four bytes of an output's lane, and four integers of x.
// Sums of a group are exact, so that it makes no difference how.
struct Sum {
  hn::Vec<Ints> first, second;
};

#if HWY_TARGET == HWY_AVX3_DL
constexpr int64_t kMostCodeRows = 8;
using Code = int8_t;
using Weights = hn::Vec<Words>;

HWY_INLINE Weights weights(hn::Vec<Words> words) {
  return words;
}
HWY_INLINE void add_products(Sum& sum, Weights w, const Code* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  sum.first.raw = _mm512_dpbusd_epi32(sum.first.raw, w.raw, _mm512_set1_epi32(four));
}
HWY_INLINE void order_codes(Code*) {}
#elif HWY_TARGET == HWY_SCALAR
constexpr int64_t kMostCodeRows = 1;
using Code = int16_t;
using Weights = hn::Vec<Words>;

HWY_INLINE Weights weights(hn::Vec<Words> words) {
  return words;
}
HWY_INLINE void add_products(Sum& sum, Weights w, const Code* x) {
  for (int i = 0; i < 4; ++i) sum.first.raw += static_cast<int32_t>(w.raw >> 8 * i & 0xff) * x[i];
}
HWY_INLINE void order_codes(Code*) {}
#else
constexpr int64_t kMostCodeRows = 4;
using Code = int16_t;
using Shorts = hn::Repartition<int16_t, Floats>;
struct Weights {
  hn::Vec<Shorts> even, odd;
};

HWY_INLINE Weights weights(hn::Vec<Words> words) {
  const hn::RebindToUnsigned<Shorts> pairs;
  const auto w = hn::BitCast(pairs, words);
  return {hn::BitCast(Shorts(), hn::And(w, hn::Set(pairs, uint16_t{0xff}))),
          hn::BitCast(Shorts(), hn::ShiftRight<8>(w))};
}
HWY_INLINE void add_products(Sum& sum, const Weights& w, const Code* x) {
  int32_t even, odd;
  std::memcpy(&even, x, sizeof even);
  std::memcpy(&odd, x + 2, sizeof odd);
  const Ints d;
  const auto x_even = hn::BitCast(Shorts(), hn::Set(d, even)), x_odd = hn::BitCast(Shorts(), hn::Set(d, odd));
  sum.first = hn::ReorderWidenMulAccumulate(d, w.even, x_even, sum.first, sum.second);
  sum.first = hn::ReorderWidenMulAccumulate(d, w.odd, x_odd, sum.first, sum.second);
}
/// The even two of each four first.
HWY_INLINE void order_codes(Code* group) {
  for (int64_t i = 0; i < kFixedGroup; i += 4) std::swap(group[i + 1], group[i + 2]);
}
#endif

HWY_INLINE hn::Vec<Ints> finish_sum(const Sum& sum) {
#if HWY_TARGET == HWY_SCALAR
  return sum.first;
#else
  return hn::RearrangeToOddPlusEven(sum.first, sum.second);
#endif
}

HWY_INLINE GroupOfX quantize(const float* x, Code* codes) {
  const Floats d;
  V most = hn::Zero(d), not_finite = hn::Zero(d);  // the latter 0 or NaN
  for (int64_t i = 0; i < kFixedGroup; i += kLanes) {
    const V some = hn::LoadU(d, x + i);
    most = hn::Max(most, hn::Abs(some));
    not_finite = hn::Add(not_finite, hn::Sub(some, some));
  }
  // Below this the reciprocal would be infinite; such numbers lose digits instead.
  const float largest = std::max(hn::GetLane(hn::MaxOfLanes(d, most)), 1e-35F);
  const V reciprocal = hn::Set(d, 127 / largest);
  auto sum = hn::Zero(Ints());
  for (int64_t i = 0; i < kFixedGroup; i += kLanes) {
    const V some = hn::LoadU(d, x + i);
    const auto code = hn::NearestInt(hn::IfThenElseZero(hn::IsFinite(some), hn::Mul(some, reciprocal)));
    sum = hn::Add(sum, code);
    const hn::Rebind<Code, Ints> narrow;
    hn::StoreU(hn::DemoteTo(narrow, code), narrow, codes + i);
  }
  order_codes(codes);
  const int32_t total = hn::GetLane(hn::SumOfLanes(Ints(), sum));
  const float scale = largest / 127 + hn::GetLane(hn::SumOfLanes(d, not_finite));
  return {scale, scale * static_cast<float>(total), -128 * total};
}

void prepare_codes(const FixedProduct& p, PreparedX& to, int64_t m) {
  Code* codes = reinterpret_cast<Code*>(to.codes.data()) + m * to.stride;
  for (int64_t group = 0; group < to.groups; ++group) {
    const int64_t i = group * kFixedGroup, size = std::clamp(p.w.I - i, int64_t{0}, kFixedGroup);
    const float* x = p.x + m * p.w.I + i;
    HWY_ALIGN float filled[kFixedGroup] = {};
    if (size < kFixedGroup) x = std::copy_n(x, size, filled) - size;
    to.scales[static_cast<size_t>(m * to.groups + group)] = quantize(x, codes + i);
  }
}

/// One group of 32 inputs times kRows rows of x.
template <FixedType kType, int64_t kRows>
HWY_INLINE void add_group(const uint8_t* bytes, V scale, V least, const Code* x, int64_t x_stride, const GroupOfX* of_x,
                          int64_t groups, V* totals) {
  const Floats d;
  constexpr int64_t kChains = kRows <= 2 ? 2 : 1;  // sums that do not wait for each other, where registers are left
  Sum sums[kRows][kChains];
  for (int64_t m = 0; m < kRows; ++m) {
    for (Sum& sum : sums[m]) sum = {hn::Zero(Ints()), hn::Zero(Ints())};
  }
  if constexpr (kType == FixedType::kQ8) {
    for (int64_t four = 0; four < kFixedGroup / 4; ++four) {
      const Weights w = weights(load_words(bytes + four * 64));
      for (int64_t m = 0; m < kRows; ++m) add_products(sums[m][four % kChains], w, x + m * x_stride + four * 4);
    }
  } else {
    for (int64_t four = 0; four < kFixedGroup / 8; ++four) {
      const auto both = load_words(bytes + four * 64), mask = hn::Set(Words(), 0x0f0f0f0fu);
      const Weights low = weights(hn::And(both, mask)), high = weights(hn::And(hn::ShiftRight<4>(both), mask));
      for (int64_t m = 0; m < kRows; ++m) add_products(sums[m][0], low, x + m * x_stride + four * 4);
      for (int64_t m = 0; m < kRows; ++m)
        add_products(sums[m][kChains - 1], high, x + m * x_stride + kFixedGroup / 2 + four * 4);
    }
  }
  for (int64_t m = 0; m < kRows; ++m) {
    auto integers = finish_sum(sums[m][0]);
    if constexpr (kChains == 2) integers = hn::Add(integers, finish_sum(sums[m][1]));
    if constexpr (kType == FixedType::kQ8) integers = hn::Add(integers, hn::Set(Ints(), of_x[m * groups].offset));
    const V sum = hn::ConvertTo(d, integers);
    totals[m] = hn::MulAdd(scale, hn::Mul(sum, hn::Set(d, of_x[m * groups].scale)), totals[m]);
    if constexpr (kType == FixedType::kQ4) totals[m] = hn::MulAdd(least, hn::Set(d, of_x[m * groups].sum), totals[m]);
  }
}

template <FixedType kType, int64_t kRows>
void multiply_codes(const FixedProduct& p, const PreparedX& prepared, int64_t block, int64_t row, Ahead ahead) {
  constexpr FixedLayout kLayout = fixed_layout(kType);
  constexpr int64_t kGroups = kLayout.record_inputs / kFixedGroup, kGroupBytes = (kLayout.record_bytes - 64) / kGroups;
  const int64_t groups = prepared.groups;
  for (int64_t first = 0; first < kLayout.block_rows; first += kLanes) {
    V totals[kRows];
    for (V& total : totals) total = hn::Zero(Floats());
    const uint8_t* bytes = p.w.bytes + block * p.w.block_bytes() + first * 4;
    const Code* x = reinterpret_cast<const Code*>(prepared.codes.data()) + row * prepared.stride;
    const GroupOfX* of_x = prepared.scales.data() + row * groups;
    for (int64_t group = 0; group < groups; group += kGroups, bytes += kLayout.record_bytes) {
      if (first == 0) ahead.fetch(bytes, kLayout.record_bytes);
      const auto words = load_words(bytes);
      const V low = lower_half(words), high = upper_half(words);
      for (int64_t g = 0; g < kGroups; ++g)
        add_group<kType, kRows>(bytes + 64 + g * kGroupBytes, kType == FixedType::kQ4 || g == 1 ? high : low, low,
                                x + (group + g) * kFixedGroup, prepared.stride, of_x + group + g, groups, totals);
    }
    for (int64_t m = 0; m < kRows; ++m) finish(p, row + m, block * kLayout.block_rows + first, totals[m]);
  }
}

// ---- all types -----------------------------------------------------------------------------------------------------

/// All rows of x, as many at a time as there are registers for. What is left over is computed in the same order.
template <FixedType kType, int64_t kRows>
void multiply_rows(const FixedProduct& p, const PreparedX& prepared, int64_t block, int64_t row, Ahead ahead) {
  for (; row + kRows <= p.M; row += kRows, ++ahead.until) {
    if constexpr (kType == FixedType::kFloat32) {
      multiply_floats<Mode::kOne, kRows>(p, prepared, block, row, ahead);
    } else if constexpr (kType != FixedType::kBfloat16) {
      multiply_codes<kType, kRows>(p, prepared, block, row, ahead);
#if HWY_TARGET == HWY_AVX3_DL
    } else if (prepared.pairs) {
      multiply_floats<Mode::kPair, kRows>(p, prepared, block, row, ahead);
#endif
    } else {
      multiply_floats<Mode::kTwo, kRows>(p, prepared, block, row, ahead);
    }
  }
  if constexpr (kRows > 1)
    if (row < p.M) multiply_rows<kType, kRows - 1>(p, prepared, block, row, ahead);
}

template <FixedType kType, int64_t kRows>
void multiply_blocks(const FixedProduct& p, const PreparedX& prepared, int64_t begin, int64_t end) {
  const int64_t passes = (p.M + kRows - 1) / kRows;
  for (int64_t block = begin; block < end; ++block) {
    const bool wanted = (p.M > 1 || kType == FixedType::kFloat32 || kType == FixedType::kBfloat16) && block + 1 < end;
    multiply_rows<kType, kRows>(p, prepared, block, 0, {p.w.block_bytes(), passes, wanted ? 1 : Ahead::kNever});
  }
}

void prepare(const FixedProduct& p, PreparedX& to, int64_t begin, int64_t end) {
  const bool floats = p.w.type == FixedType::kFloat32 || p.w.type == FixedType::kBfloat16;
  for (int64_t m = begin; m < end; ++m) (floats ? prepare_floats : prepare_codes)(p, to, m);
}

void multiply(const FixedProduct& p, const PreparedX& prepared, int64_t begin, int64_t end) {
  switch (p.w.type) {
    case FixedType::kFloat32:
      return multiply_blocks<FixedType::kFloat32, kMostFloatRows>(p, prepared, begin, end);
    case FixedType::kBfloat16:
      return multiply_blocks<FixedType::kBfloat16, kMostFloatRows>(p, prepared, begin, end);
    case FixedType::kQ8:
      return multiply_blocks<FixedType::kQ8, kMostCodeRows>(p, prepared, begin, end);
    case FixedType::kQ4:
      return multiply_blocks<FixedType::kQ4, kMostCodeRows>(p, prepared, begin, end);
  }
}

}  // namespace megalodon::ops::HWY_NAMESPACE
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(prepare);
HWY_EXPORT(multiply);

bool has_pairs() {
#if HWY_ARCH_X86
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

PreparedX room_for(const FixedProduct& p) {
  const int64_t inputs = p.w.records() * fixed_layout(p.w.type).record_inputs, groups = inputs / kFixedGroup;
  const auto all = static_cast<size_t>(p.M * inputs);
  if (p.w.type == FixedType::kFloat32 || p.w.type == FixedType::kBfloat16)
    return {inputs, 0, has_pairs(), std::vector<float>(all), {}, {}};
  return {
      inputs, groups, false, {}, std::vector<int16_t>(all), std::vector<GroupOfX>(static_cast<size_t>(p.M * groups))};
}

/// Calls run(begin, end) for parts of at most that size.
template <class Run>
void in_parts(int64_t size, int64_t part, const Run& run) {
  parallel_for((size + part - 1) / part, [&](int64_t i) { run(i * part, std::min(size, (i + 1) * part)); });
}

void multiply_some(const FixedProduct& p) {
  PreparedX prepared = room_for(p);
  in_parts(p.M, 4, [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(prepare)(p, prepared, begin, end); });
  // A few tasks a thread, and none of less than 64 KiB, some microseconds of work.
  const int64_t tasks = omp_get_max_threads() * 4, least = (int64_t{1} << 16) / p.w.block_bytes() + 1;
  in_parts(p.w.blocks(), std::max((p.w.blocks() + tasks - 1) / tasks, least), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(multiply)(p, prepared, begin, end);
  });
}

}  // namespace

void fixed_product_cpu(const FixedProduct& product) {
  constexpr int64_t kRows = 256;  // of x at a time: as integers they stay in the second level cache
  for (int64_t m = 0; m < product.M; m += kRows) {
    FixedProduct some = product;
    some.M = std::min(kRows, product.M - m);
    some.x += m * product.w.I;
    if (some.addend != nullptr) some.addend += m * product.w.O;
    some.y += m * product.w.O;
    multiply_some(some);
  }
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
