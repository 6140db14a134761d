// ops_bench --benchmark_filter=Rotary: checked against the reference, then timed; bytes are x read and y written once.
#include <benchmark/benchmark.h>

#include "base/check.h"
#include "ops/rotary/rotary.h"

namespace megalodon::ops::rotary_bench {
namespace {

/// Arguments L, H, K, C: positions run from 0 to C − 1 again and again.
void Rotary(benchmark::State& state) {
  const int64_t L = state.range(0), H = state.range(1), K = state.range(2), C = state.range(3);
  const Tensor x = torch::randn({1, L, H, K}), position = (torch::arange(L, torch::kInt64) % C).unsqueeze(0);
  const double error = (rotary(x, position, 10000) - ref::rotary(x, position, 10000)).abs().max().item<double>();
  check(error < 1e-5, "[rotary_bench] the kernel must match the reference, got error {}", error);
  for (auto _ : state) benchmark::DoNotOptimize(rotary(x, position, 10000));
  state.SetBytesProcessed(state.iterations() * x.numel() * 8);
}
BENCHMARK(Rotary)
    ->Args({1, 3, 64, 256})
    ->Args({2048, 3, 64, 256})
    ->Args({2048, 1, 256, 2048})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace megalodon::ops::rotary_bench
