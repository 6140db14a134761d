// FLOPs: 2·T·D·V forward, 6·T·D·V forward and backward with the recomputed logits counted as what they are, overhead:
// the counter reports useful FLOPs. "reference" is the plain composition on the same inputs.
#include <benchmark/benchmark.h>

#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace megalodon::ops::linear_cross_entropy_bench {
namespace {

using Op = Tensor (*)(const Tensor&, const Tensor&, const Tensor&);

std::vector<Tensor> step(Op op, const Tensor& x, const Tensor& w, const Tensor& targets) {
  const Tensor loss = op(x, w, targets).mean();
  auto gradients = torch::autograd::grad({loss}, {x, w});
  gradients.push_back(loss.detach());
  return gradients;
}

void run(benchmark::State& state, Op op) {
  const int64_t T = state.range(0), D = state.range(1), V = state.range(2);
  torch::manual_seed(1);
  const Tensor x = torch::randn({T, D}).requires_grad_(), w = (torch::randn({V, D}) / 8).requires_grad_();
  const Tensor targets = torch::randint(V, {T});
  const auto got = step(op, x, w, targets), expected = step(ref::linear_cross_entropy, x, w, targets);
  for (size_t i = 0; i < got.size(); ++i) {
    if (!torch::allclose(got[i], expected[i], 1e-3, 1e-6)) {
      state.SkipWithError("differs from the reference");
      return;
    }
  }
  for ([[maybe_unused]] auto _ : state) step(op, x, w, targets);
  state.counters["FLOP/s"] =
      benchmark::Counter(6.0 * static_cast<double>(T * D * V), benchmark::Counter::kIsIterationInvariantRate);
}

#define CASES ArgNames({"T", "D", "V"})->Args({4096, 256, 256})->Args({2048, 512, 8192})->Args({1024, 1024, 32000})
BENCHMARK_CAPTURE(run, linear_cross_entropy, linear_cross_entropy)->CASES->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(run, linear_cross_entropy_reference, ref::linear_cross_entropy)
    ->CASES->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace megalodon::ops::linear_cross_entropy_bench
