// Bytes: 12 per element forward and 20 backward, what the fused kernels move. The composition of tensor ops beside it.
#include <benchmark/benchmark.h>

#include "ops/gated_silu/gated_silu.h"

namespace megalodon::ops::gated_silu_bench {
namespace {

using Op = Tensor (*)(const Tensor&, const Tensor&);

std::vector<Tensor> step(Op op, const Tensor& a, const Tensor& b, const Tensor& dh) {
  const Tensor h = op(a, b);
  auto gradients = torch::autograd::grad({h}, {a, b}, {dh});
  gradients.push_back(h.detach());
  return gradients;
}

void run(benchmark::State& state, Op op) {
  const std::vector<int64_t> shape = {state.range(0), state.range(1)};
  const Tensor a = torch::randn(shape).requires_grad_(), b = torch::randn(shape).requires_grad_();
  const Tensor dh = torch::randn(shape);
  const auto got = step(op, a, b, dh), expected = step(ref::gated_silu, a, b, dh);
  for (size_t i = 0; i < got.size(); ++i) {
    if (!torch::allclose(got[i], expected[i], 1e-5, 1e-6)) {
      state.SkipWithError("differs from the reference");
      return;
    }
  }
  for ([[maybe_unused]] auto _ : state) step(op, a, b, dh);
  state.SetBytesProcessed(state.iterations() * shape[0] * shape[1] * (12 + 20));
}

BENCHMARK_CAPTURE(run, gated_silu, gated_silu)->Args({2048, 2560})->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK_CAPTURE(run, gated_silu_reference, ref::gated_silu)
    ->Args({2048, 2560})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace megalodon::ops::gated_silu_bench
