// Time of rms_norm and layer_norm; nothing is timed that was not checked against the float64 reference just before.
#include <benchmark/benchmark.h>

#include "ops/row_norm/row_norm.h"

namespace megalodon::ops::row_norm_bench {
namespace {

constexpr double kEps = 1e-5;

/// With a bias: layer_norm.
Tensor fast(const std::vector<Tensor>& t) {
  return t.size() == 2 ? rms_norm(t[0], t[1], kEps) : layer_norm(t[0], t[1], t[2], kEps);
}
Tensor plain(const std::vector<Tensor>& t) {
  return t.size() == 2 ? ref::rms_norm(t[0], t[1], kEps) : ref::layer_norm(t[0], t[1], t[2], kEps);
}

std::vector<Tensor> inputs(const benchmark::State& state, bool bias) {
  std::vector<Tensor> result = {torch::randn({state.range(0), state.range(1)}), torch::randn({state.range(1)}) * 0.1};
  if (bias) result.push_back(torch::randn({state.range(1)}));
  return result;
}

std::vector<Tensor> leaves(std::vector<Tensor> inputs, torch::ScalarType type) {
  for (Tensor& t : inputs) t = t.to(type, false, true).set_requires_grad(true);
  return inputs;
}

void forward(benchmark::State& state, bool bias) {
  const auto in = inputs(state, bias);
  if (!torch::allclose(fast(in).to(torch::kFloat64), plain(leaves(in, torch::kFloat64)), 1e-5, 1e-5)) {
    state.SkipWithError("the kernel disagrees with the reference");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(fast(in));
  state.SetBytesProcessed(state.iterations() * in[0].numel() * 2 * int64_t{sizeof(float)});
}

void forward_backward(benchmark::State& state, bool bias) {
  const auto in = leaves(inputs(state, bias), torch::kFloat32), exact_in = leaves(in, torch::kFloat64);
  const Tensor dy = torch::randn_like(in[0]);
  const auto got = torch::autograd::grad({fast(in)}, in, {dy});
  const auto exact = torch::autograd::grad({plain(exact_in)}, exact_in, {dy.to(torch::kFloat64)});
  for (size_t i = 0; i < got.size(); ++i) {
    if (torch::allclose(got[i].to(torch::kFloat64), exact[i], 1e-5, 1e-4)) continue;
    state.SkipWithError("a gradient of the kernel disagrees with the reference");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(torch::autograd::grad({fast(in)}, in, {dy}));
  state.SetBytesProcessed(state.iterations() * in[0].numel() * 5 * int64_t{sizeof(float)});
}

// Rows, features: a layer, the heads of a layer, a wide model, a decoding step.
void sizes(benchmark::internal::Benchmark* b) {
  b->Args({2048, 1024})->Args({16384, 64})->Args({2048, 4096})->Args({1, 1024});
  b->Unit(benchmark::kMicrosecond)->UseRealTime();
}

BENCHMARK_CAPTURE(forward, rms_norm, false)->Apply(sizes);
BENCHMARK_CAPTURE(forward, layer_norm, true)->Apply(sizes);
BENCHMARK_CAPTURE(forward_backward, rms_norm, false)->Apply(sizes);
BENCHMARK_CAPTURE(forward_backward, layer_norm, true)->Apply(sizes);

}  // namespace
}  // namespace megalodon::ops::row_norm_bench
