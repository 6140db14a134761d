// Rows of logits to losses and to gradients. Each thread takes whole rows, so sums have one order whatever the number
// of threads. Forward: one pass for the maximum, one for Σ exp(l − max); a row of 32,000 logits is 128 KiB and stays in
// L2 between the two. Backward: one read and one write. All of it is a few percent of the matrix products around it.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_cross_entropy/linear_cross_entropy_cpu.cc"
// Highway wants this order, which is not the alphabet's.
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/parallel.h"
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The row's maximum, or NaN if any logit is NaN: vector maximum and Exp would both lose it.
float row_max(const float* HWY_RESTRICT row, int64_t size) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto max = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto poison = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const auto x = hn::LoadU(d, row + i);
    max = hn::Max(max, x);
    poison = hn::IfThenElse(hn::IsNaN(x), x, poison);
  }
  float result = hn::GetLane(hn::MaxOfLanes(d, max));
  bool nan = !hn::AllFalse(d, hn::IsNaN(poison));
  for (; i < size; ++i) {
    result = std::max(result, row[i]);
    nan = nan || std::isnan(row[i]);
  }
  return nan ? std::numeric_limits<float>::quiet_NaN() : result;
}

/// log Σ exp(row − max). A lane adds up so few numbers in float32 that narrow vectors are as exact as wide ones.
float row_log_sum(const float* HWY_RESTRICT row, int64_t size, float max) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto shift = hn::Set(d, max);
  constexpr int64_t kStretch = 64;
  double total = 0;
  int64_t i = 0;
  while (i + lanes <= size) {
    const int64_t end = std::min(size, i + kStretch * lanes);
    auto sum = hn::Zero(d);
    for (; i + lanes <= end; i += lanes) sum = hn::Add(sum, hn::Exp(d, hn::Sub(hn::LoadU(d, row + i), shift)));
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < size; ++i) total += std::exp(row[i] - max);
  return static_cast<float>(std::log(total));
}

/// row = exp(row − log_sum) · scale.
void row_softmax(float* HWY_RESTRICT row, int64_t size, float log_sum, float scale) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto shift = hn::Set(d, log_sum), factor = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes)
    hn::StoreU(hn::Mul(hn::Exp(d, hn::Sub(hn::LoadU(d, row + i), shift)), factor), d, row + i);
  for (; i < size; ++i) row[i] = std::exp(row[i] - log_sum) * scale;
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(row_max);
HWY_EXPORT(row_log_sum);
HWY_EXPORT(row_softmax);

/// Calls use(row) for every row; a task has at least 16 Ki logits, some 10 µs of work, however small the vocabulary.
template <class Use>
void for_each_row(int64_t rows, int64_t vocabulary, const Use& use) {
  constexpr int64_t kTaskLogits = 1 << 14;
  const int64_t per_task = std::max<int64_t>(1, kTaskLogits / vocabulary);
  parallel_for((rows + per_task - 1) / per_task, [&](int64_t task) {
    for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); ++r) use(r);
  });
}

}  // namespace

void cross_entropy_forward_cpu(const CrossEntropyForwardArgs& args) {
  for_each_row(args.rows, args.vocabulary, [&](int64_t r) {
    args.nll[r] = args.log_sum[r] = 0;
    const int64_t target = args.targets[r];
    if (target == kIgnoredTarget) return;
    const float* row = args.logits + r * args.vocabulary;
    const float max = HWY_DYNAMIC_DISPATCH(row_max)(row, args.vocabulary);
    const float log_sum = HWY_DYNAMIC_DISPATCH(row_log_sum)(row, args.vocabulary, max);
    args.log_sum[r] = max + log_sum;
    args.nll[r] = (max - row[target]) + log_sum;  // this order: a confident prediction's small loss keeps its digits
  });
}

void cross_entropy_backward_cpu(const CrossEntropyBackwardArgs& args) {
  for_each_row(args.rows, args.vocabulary, [&](int64_t r) {
    float* row = static_cast<float*>(args.dlogits) + r * args.vocabulary;
    if (args.targets[r] == kIgnoredTarget) {
      std::fill_n(row, args.vocabulary, 0.0F);
    } else if (!std::isfinite(args.log_sum[r])) {  // exp() of a NaN would be 0 here: keep bad losses visible
      std::fill_n(row, args.vocabulary, std::numeric_limits<float>::quiet_NaN());
    } else {
      HWY_DYNAMIC_DISPATCH(row_softmax)(row, args.vocabulary, args.log_sum[r], args.dnll[r]);
      row[args.targets[r]] -= args.dnll[r];
    }
  });
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
