// 28 bytes move per element (4 reads, 3 writes) for a dozen operations: memory bound, so plain loops that the compiler
// vectorizes for the baseline instruction set are as fast as wider ones. The same instructions on every machine.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "ops/adamw/adamw_kernel.h"

namespace megalodon::ops {
namespace {

constexpr int64_t kBlock = 1 << 14;  // elements a task takes: some 10 µs of memory traffic

int64_t blocks(int64_t size) {
  return (size + kBlock - 1) / kBlock;
}

void adamw_block(const AdamWArgs& a, const AdamWArrays& x, int64_t begin, int64_t end) {
  float* __restrict p = x.parameter;
  const float* __restrict gradient = x.gradient;
  float* __restrict m = x.exp_avg;
  float* __restrict v = x.exp_avg_sq;
  for (int64_t i = begin; i < end; ++i) {
    const float g = gradient[i] * a.gradient_scale;
    m[i] = a.beta1 * m[i] + a.rest1 * g;
    v[i] = a.beta2 * v[i] + a.rest2 * g * g;
    p[i] = p[i] * x.shrink - a.rate * (m[i] / (std::sqrt(v[i] * a.inverse_correction) + a.eps));
  }
}

double sum_of_squares_block(const float* x, int64_t size) {
  constexpr int64_t kLanes = 16;  // independent sums hide the latency of the additions
  std::array<double, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<double>(x[i + lane]) * x[i + lane];
  for (; i < size; ++i) sums[i % kLanes] += static_cast<double>(x[i]) * x[i];
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

double sum_of_squares_of(const ConstArray& x) {
  std::vector<double> partial(blocks(x.size));
  parallel_for(blocks(x.size), [&](int64_t block) {
    const int64_t begin = block * kBlock;
    partial[block] = sum_of_squares_block(x.data + begin, std::min(kBlock, x.size - begin));
  });
  double total = 0;
  for (const double sum : partial) total += sum;
  return total;
}

}  // namespace

void adamw_cpu(const AdamWArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const AdamWArrays& x = args.list[i];
    parallel_for(blocks(x.size),
                 [&](int64_t block) { adamw_block(args, x, block * kBlock, std::min(x.size, (block + 1) * kBlock)); });
  }
}

void sum_of_squares_cpu(const SumOfSquaresArgs& args) {
  *args.sum = 0;
  for (int64_t i = 0; i < args.count; ++i) *args.sum += sum_of_squares_of(args.list[i]);
}

}  // namespace megalodon::ops
