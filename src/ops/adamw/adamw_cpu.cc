// 28 bytes move per element (4 reads, 3 writes) for a dozen operations: memory bound. Multiplications and additions are
// not fused and sums have sixteen lanes whatever a vector has, so that the numbers are the same on every processor.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/adamw/adamw_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <array>
#include <vector>

#include "base/parallel.h"
#include "hwy/highway.h"
#include "ops/adamw/adamw_kernel.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Elements [begin, end) of the arrays; fewer than a vector's lanes with a tag of one.
template <class D>
HWY_INLINE void adamw_span(D d, const AdamWArgs& a, const AdamWArrays& x, int64_t begin, int64_t end) {
  const auto set = [&](float number) HWY_ATTR { return hn::Set(d, number); };
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto g = hn::Mul(hn::LoadU(d, x.gradient + i), set(a.gradient_scale));
    const auto m = hn::Add(hn::Mul(set(a.beta1), hn::LoadU(d, x.exp_avg + i)), hn::Mul(set(a.rest1), g));
    const auto v = hn::Add(hn::Mul(set(a.beta2), hn::LoadU(d, x.exp_avg_sq + i)), hn::Mul(hn::Mul(set(a.rest2), g), g));
    const auto deviation = hn::Add(hn::Sqrt(hn::Mul(v, set(a.inverse_correction))), set(a.eps));
    const auto update = hn::Mul(set(a.rate), hn::Div(m, deviation));
    hn::StoreU(m, d, x.exp_avg + i);
    hn::StoreU(v, d, x.exp_avg_sq + i);
    hn::StoreU(hn::Sub(hn::Mul(hn::LoadU(d, x.parameter + i), set(x.shrink)), update), d, x.parameter + i);
  }
}

void adamw_block(const AdamWArgs& a, const AdamWArrays& x, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t whole = end - (end - begin) % static_cast<int64_t>(hn::Lanes(d));
  adamw_span(d, a, x, begin, whole);
  adamw_span(hn::CappedTag<float, 1>(), a, x, whole, end);
}

/// Sum number i % 16 takes x[i]; in stretches that stay in L1 while each vector of sums passes over them.
double sum_of_squares_block(const float* x, int64_t size) {
  constexpr int64_t kSums = 16, kStretch = 2048;
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> narrow;
  std::array<double, kSums> sums{};
  const int64_t whole = size - size % kSums;
  for (int64_t begin = 0; begin < whole; begin += kStretch) {
    for (int64_t lane = 0; lane < kSums; lane += static_cast<int64_t>(hn::Lanes(d))) {
      auto sum = hn::LoadU(d, &sums[lane]);
      for (int64_t i = begin; i < std::min(whole, begin + kStretch); i += kSums) {
        const auto part = hn::PromoteTo(d, hn::LoadU(narrow, x + i + lane));
        sum = hn::MulAdd(part, part, sum);  // such a square is exact in float64: fused or not is the same
      }
      hn::StoreU(sum, d, &sums[lane]);
    }
  }
  for (int64_t i = whole; i < size; ++i) sums[i % kSums] += static_cast<double>(x[i]) * x[i];
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(adamw_block);
HWY_EXPORT(sum_of_squares_block);

constexpr int64_t kBlock = 1 << 14;  // elements a task takes: some 10 µs of memory traffic

int64_t blocks(int64_t size) {
  return (size + kBlock - 1) / kBlock;
}

double sum_of_squares_of(const ConstArray& x) {
  const auto sum_of_block = HWY_DYNAMIC_DISPATCH(sum_of_squares_block);
  std::vector<double> partial(blocks(x.size));
  parallel_for(blocks(x.size), [&](int64_t block) {
    const int64_t begin = block * kBlock;
    partial[block] = sum_of_block(x.data + begin, std::min(kBlock, x.size - begin));
  });
  double total = 0;
  for (const double sum : partial) total += sum;
  return total;
}

}  // namespace

void adamw_cpu(const AdamWArgs& args) {
  const auto update_block = HWY_DYNAMIC_DISPATCH(adamw_block);
  for (int64_t i = 0; i < args.count; ++i) {
    const AdamWArrays& x = args.list[i];
    parallel_for(blocks(x.size),
                 [&](int64_t block) { update_block(args, x, block * kBlock, std::min(x.size, (block + 1) * kBlock)); });
  }
}

void sum_of_squares_cpu(const SumOfSquaresArgs& args) {
  *args.sum = 0;
  for (int64_t i = 0; i < args.count; ++i) *args.sum += sum_of_squares_of(args.list[i]);
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
