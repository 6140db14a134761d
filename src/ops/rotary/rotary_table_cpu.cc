// The angle is reduced to one turn in float64 first, so the float32 angle's own rounding is the only error at far
// positions.
#include "ops/rotary/rotary_table.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rotary/rotary_table_cpu.cc"
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

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(table_row);

constexpr int64_t kPadding = 32;  // at least the widest vector of doubles, so that a table row has no tail

}  // namespace

RotaryTable::RotaryTable(const int64_t* position, int64_t tokens, const float* frequencies, int64_t pairs, bool inverse)
    : position_(position), width_((pairs + kPadding - 1) / kPadding * kPadding) {
  if (tokens == 0) return;
  const int64_t positions = *std::max_element(position, position + tokens) + 1;
  by_position_ = positions <= tokens;
  const int64_t rows = by_position_ ? positions : tokens;
  std::vector<float> padded(width_);
  std::copy_n(frequencies, pairs, padded.begin());
  table_.resize(rows * 2 * width_);
  for_items(rows, 16 * width_, [&](int64_t row) {  // a sine and a cosine cost about 16 times a rotation
    float* cosine = table_.data() + row * 2 * width_;
    HWY_DYNAMIC_DISPATCH(table_row)
    (by_position_ ? row : position[row], padded.data(), width_, inverse ? -1.0f : 1.0f, cosine, cosine + width_);
  });
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
