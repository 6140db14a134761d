// Two passes: a table of cosines and sines, then the rotation of all heads. The angle is reduced to one turn in float64
// first, so the float32 angle's own rounding is the only error at far positions.
#include "ops/rotary/rotary_kernel.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rotary/rotary_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h: a block of its own

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// cos and ±sin of position · frequency for all pairs. `size` is a whole number of vectors, the frequencies padded.
inline void table_row(int64_t position, const float* frequencies, int64_t size, float sign, float* cosine,
                      float* sine) {
  const hn::ScalableTag<double> wide;
  const hn::Rebind<float, decltype(wide)> narrow;
  const auto step = static_cast<int64_t>(hn::Lanes(narrow));
  const auto turn = hn::Set(wide, 6.283185307179586), per_turn = hn::Set(wide, 0.15915494309189535);
  for (int64_t i = 0; i < size; i += step) {
    const auto angle = hn::Mul(hn::Set(narrow, static_cast<float>(position)), hn::LoadU(narrow, frequencies + i));
    const auto exact = hn::PromoteTo(wide, angle);
    const auto rest = hn::NegMulAdd(hn::Round(hn::Mul(exact, per_turn)), turn, exact);
    const auto reduced = hn::DemoteTo(narrow, rest);
    hn::StoreU(hn::Cos(narrow, reduced), narrow, cosine + i);
    hn::StoreU(hn::Mul(hn::Set(narrow, sign), hn::Sin(narrow, reduced)), narrow, sine + i);
  }
}

/// One token: `heads` x `pairs` adjacent pairs, all with the same row of the table.
inline void rotate_token(const float* x, const float* cosine, const float* sine, int64_t heads, int64_t pairs,
                         float* y) {
  for (int64_t h = 0; h < heads; ++h, x += 2 * pairs, y += 2 * pairs) {
    int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // has no interleaved loads
    const hn::ScalableTag<float> d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    for (; i + lanes <= pairs; i += lanes) {
      hn::Vec<decltype(d)> even, odd;
      hn::LoadInterleaved2(d, x + 2 * i, even, odd);
      const auto c = hn::LoadU(d, cosine + i), s = hn::LoadU(d, sine + i);
      hn::StoreInterleaved2(hn::NegMulAdd(odd, s, hn::Mul(even, c)), hn::MulAdd(even, s, hn::Mul(odd, c)), d,
                            y + 2 * i);
    }
#endif
    for (; i < pairs; ++i) {
      const float even = x[2 * i], odd = x[2 * i + 1];
      y[2 * i] = even * cosine[i] - odd * sine[i];
      y[2 * i + 1] = even * sine[i] + odd * cosine[i];
    }
  }
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(table_row);
HWY_EXPORT(rotate_token);

constexpr int64_t kPadding = 32;     // at least the widest vector of doubles, so that a table row has no tail
constexpr int64_t kBlock = 1 << 14;  // elements per task; below that one thread is faster than starting several

/// parallel_for over items of `cost` elements each, in blocks of about kBlock elements.
template <class Item>
void for_items(int64_t items, int64_t cost, const Item& item) {
  const int64_t block = std::max<int64_t>(1, kBlock / cost);
  parallel_for((items + block - 1) / block, [&](int64_t at) {
    for (int64_t i = at * block; i < std::min(items, (at + 1) * block); ++i) item(i);
  });
}

}  // namespace

void rotary_cpu(const RotaryArgs& args) {
  const int64_t pairs = args.head_dim / 2, width = (pairs + kPadding - 1) / kPadding * kPadding;
  // One row of the table per position where positions repeat or are dense (training), else one per token (decoding).
  const int64_t positions = *std::max_element(args.position, args.position + args.tokens) + 1;
  const bool by_position = positions <= args.tokens;
  const int64_t rows = by_position ? positions : args.tokens;
  std::vector<float> frequencies(width), table(rows * 2 * width);
  std::copy_n(args.frequencies, pairs, frequencies.begin());
  for_items(rows, 16 * width, [&](int64_t row) {  // a sine and a cosine cost about 16 times a rotation
    float* cosine = table.data() + row * 2 * width;
    HWY_DYNAMIC_DISPATCH(table_row)
    (by_position ? row : args.position[row], frequencies.data(), width, args.inverse ? -1.0f : 1.0f, cosine,
     cosine + width);
  });
  const int64_t size = args.heads * args.head_dim;
  for_items(args.tokens, size, [&](int64_t t) {
    const float* cosine = table.data() + (by_position ? args.position[t] : t) * 2 * width;
    HWY_DYNAMIC_DISPATCH(rotate_token)
    (args.x + t * size, cosine, cosine + width, args.heads, pairs, args.y + t * size);
  });
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
