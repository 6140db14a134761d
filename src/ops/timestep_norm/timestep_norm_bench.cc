// Time of timestep_norm; nothing is timed that was not checked against the float64 reference just before.
#include <benchmark/benchmark.h>

#include "ops/timestep_norm/timestep_norm.h"

namespace megalodon::ops::timestep_norm_bench {
namespace {

struct Inputs {
  Tensor x_BLD, weight_D, bias_D, dy_BLD;
  TimestepNormOptions options;

  explicit Inputs(const benchmark::State& state)
      : x_BLD(torch::randn({state.range(0), state.range(1), state.range(2)})),
        weight_D(torch::randn({state.range(2)}) * 0.1),
        bias_D(torch::randn({state.range(2)})),
        dy_BLD(torch::randn_like(x_BLD)) {
    options.groups = state.range(3);
  }

  std::vector<Tensor> leaves(torch::ScalarType type) const {
    std::vector<Tensor> result = {x_BLD.to(type, false, true), weight_D.to(type, false, true),
                                  bias_D.to(type, false, true)};
    for (Tensor& t : result) t.set_requires_grad(true);
    return result;
  }
};

std::vector<Tensor> gradients(decltype(timestep_norm) norm, const Inputs& in, const std::vector<Tensor>& leaves) {
  const Tensor y = norm(leaves[0], leaves[1], leaves[2], in.options).y_BLD;
  return torch::autograd::grad({y}, leaves, {in.dy_BLD.to(y.scalar_type())});
}

void count_bytes(benchmark::State& state, const Inputs& in, int64_t passes) {
  state.SetBytesProcessed(state.iterations() * in.x_BLD.numel() * passes * int64_t{sizeof(float)});
}

void timestep_norm_forward(benchmark::State& state) {
  const Inputs in(state);
  const auto exact = ref::timestep_norm(in.x_BLD.to(torch::kFloat64), in.weight_D, in.bias_D, in.options);
  const Tensor y_BLD = timestep_norm(in.x_BLD, in.weight_D, in.bias_D, in.options).y_BLD;
  if (!torch::allclose(y_BLD.to(torch::kFloat64), exact.y_BLD, 1e-5, 1e-5)) {
    state.SkipWithError("the kernel disagrees with the reference");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(timestep_norm(in.x_BLD, in.weight_D, in.bias_D, in.options));
  count_bytes(state, in, 2);  // read x, write y
}

void timestep_norm_forward_backward(benchmark::State& state) {
  const Inputs in(state);
  const auto leaves = in.leaves(torch::kFloat32);
  const auto got = gradients(timestep_norm, in, leaves);
  const auto exact = gradients(ref::timestep_norm, in, in.leaves(torch::kFloat64));
  for (size_t i = 0; i < got.size(); ++i) {
    if (torch::allclose(got[i].to(torch::kFloat64), exact[i], 1e-5, 1e-4)) continue;
    state.SkipWithError("a gradient of the kernel disagrees with the reference");
    return;
  }
  for (auto _ : state) benchmark::DoNotOptimize(gradients(timestep_norm, in, leaves));
  count_bytes(state, in, 5);  // the forward's, then read x and dy, write dx
}

// B, L, D, groups: training at two widths, batch, a decoding step.
BENCHMARK(timestep_norm_forward)
    ->Args({1, 2048, 1024, 32})
    ->Args({1, 2048, 4096, 64})
    ->Args({8, 512, 1024, 32})
    ->Args({1, 1, 1024, 32})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();
BENCHMARK(timestep_norm_forward_backward)
    ->Args({1, 2048, 1024, 32})
    ->Args({1, 2048, 4096, 64})
    ->Args({8, 512, 1024, 32})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace megalodon::ops::timestep_norm_bench
