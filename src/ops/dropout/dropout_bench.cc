// Bytes: 4 read and 4 written per element. torch's dropout, which draws its mask sequentially, beside it.
#include <benchmark/benchmark.h>

#include "ops/dropout/dropout.h"

namespace megalodon::ops::dropout_bench {
namespace {

void report(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * state.range(0));
  state.SetBytesProcessed(state.iterations() * state.range(0) * 8);
}

void dropout_forward(benchmark::State& state) {
  const Tensor x = torch::randn({state.range(0)});
  if (!torch::allclose(ops::dropout(x, 0.1, 1), ref::dropout(x, 0.1, 1))) {
    state.SkipWithError("differs from the reference");
    return;
  }
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(ops::dropout(x, 0.1, 1));
  report(state);
}

void dropout_torch(benchmark::State& state) {
  const Tensor x = torch::randn({state.range(0)});
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(torch::dropout(x, 0.1, true));
  report(state);
}

BENCHMARK(dropout_forward)->Arg(1 << 21)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(dropout_torch)->Arg(1 << 21)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
}  // namespace megalodon::ops::dropout_bench
