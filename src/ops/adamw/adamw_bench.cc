// Bytes: 28 per element for the step (4 reads, 3 writes), 4 for the sum of squares.
#include <benchmark/benchmark.h>

#include <cmath>

#include "ops/adamw/adamw.h"

namespace megalodon::ops::adamw_bench {
namespace {

using Op = void (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const AdamWStep&);

void run(benchmark::State& state, Op op) {
  const AdamWStep step{.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .step = 10};
  const Tensor p = torch::randn({state.range(0)}), g = torch::randn_like(p), m = torch::zeros_like(p);
  const Tensor v = torch::zeros_like(p), expected = p.clone();
  ref::adamw(expected, g, m.clone(), v.clone(), step);
  op(p, g, m, v, step);
  if (!torch::allclose(p, expected, 1e-6, 1e-7)) {
    state.SkipWithError("differs from the reference");
    return;
  }
  for ([[maybe_unused]] auto _ : state) op(p, g, m, v, step);
  state.SetBytesProcessed(state.iterations() * state.range(0) * 28);
}

void sum(benchmark::State& state) {
  const Tensor x = torch::randn({state.range(0)});
  const double expected = x.to(torch::kFloat64).square().sum().item<double>();
  if (std::abs(sum_of_squares(x) - expected) > 1e-12 * expected) {
    state.SkipWithError("differs from the reference");
    return;
  }
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(sum_of_squares(x));
  state.SetBytesProcessed(state.iterations() * state.range(0) * 4);
}

BENCHMARK_CAPTURE(run, adamw, adamw)->Arg(1 << 24)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(run, adamw_reference, ref::adamw)->Arg(1 << 24)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(sum)->Name("sum_of_squares")->Arg(1 << 24)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace megalodon::ops::adamw_bench
