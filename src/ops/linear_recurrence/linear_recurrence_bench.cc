// Forward, and forward with backward, on the sizes of real layers, and one decoded token. Each size is compared with
// the float64 reference on its first steps before it is timed.
#include <benchmark/benchmark.h>

#include "ops/linear_recurrence/linear_recurrence.h"

namespace megalodon::ops::linear_recurrence_bench {
namespace {

struct Inputs {
  int64_t B, L, D, N;
  Tensor x, q, c, skip, h0, dy;

  explicit Inputs(const benchmark::State& state)
      : B(state.range(0)), L(state.range(1)), D(state.range(2)), N(state.range(3)) {
    torch::manual_seed(1);
    x = torch::randn({B, L, D}), dy = torch::randn({B, L, D}), skip = torch::randn({D});
    q = torch::polar(1 - torch::pow(10.0, -0.3 - 2.7 * torch::rand({D, N})), 6.3 * torch::rand({D, N}));
    c = torch::randn({D, N}, torch::kComplexFloat), h0 = torch::randn({B, D, N}, torch::kComplexFloat);
  }

  /// Compares the first steps with the float64 reference; false, with the reason in `state`, if they disagree.
  bool agrees(benchmark::State& state) const {
    const Tensor start = x.narrow(1, 0, std::min<int64_t>(L, 40)), q64 = q.to(torch::kComplexDouble);
    const auto got = linear_recurrence(start, q, c, skip, {h0, {}, true});
    const auto expected = ref::linear_recurrence(start.to(torch::kFloat64), q64, c.to(torch::kComplexDouble),
                                                 skip.to(torch::kFloat64), {h0.to(torch::kComplexDouble), {}, true});
    const auto error = [](const Tensor& a, const Tensor& e) {
      return ((a - e).abs().max() / e.abs().max()).item<double>();
    };
    const bool good = error(got.y_BLD, expected.y_BLD) < 1e-5 && error(got.h_BDN, expected.h_BDN) < 1e-5;
    if (!good) state.SkipWithError("differs from the reference");
    return good;
  }

  /// `flops` per step, feature and order; `floats` moved per step and feature, `coefficients` per feature and order.
  void report(benchmark::State& state, double flops, double floats, double coefficients) const {
    const auto steps = static_cast<double>(B * L * D), orders = static_cast<double>(D * N);
    const auto count = static_cast<double>(state.iterations());
    using benchmark::Counter;
    state.counters["FLOP/s"] = Counter(count * steps * static_cast<double>(N) * flops, Counter::kIsRate);
    state.counters["bytes/s"] = Counter(count * 4 * (steps * floats + orders * coefficients), Counter::kIsRate);
  }
};

void forward(benchmark::State& state) {
  const Inputs in(state);
  torch::NoGradGuard no_grad;
  if (!in.agrees(state)) return;
  for (auto _ : state) benchmark::DoNotOptimize(linear_recurrence(in.x, in.q, in.c, in.skip));
  in.report(state, 12, 2, 4);
}

void forward_backward(benchmark::State& state) {
  Inputs in(state);
  if (!in.agrees(state)) return;
  const std::vector<Tensor> leaves = {in.x, in.q, in.c, in.skip};
  for (Tensor leaf : leaves) leaf.set_requires_grad(true);
  for (auto _ : state) {
    const Tensor y = linear_recurrence(in.x, in.q, in.c, in.skip).y_BLD;
    benchmark::DoNotOptimize(torch::autograd::grad({y}, leaves, {in.dy}));
  }
  in.report(state, 12 + 42, 2 + 4, 4 + 8);
}

void decode(benchmark::State& state) {
  const Inputs in(state);
  torch::NoGradGuard no_grad;
  if (!in.agrees(state)) return;
  Tensor h = in.h0;
  for (auto _ : state) h = linear_recurrence(in.x, in.q, in.c, in.skip, {h, {}, true}).h_BDN;
  in.report(state, 12, 2, 8);
}

#define MEGALODON_SIZES ArgNames({"B", "L", "D", "N"})->Unit(benchmark::kMillisecond)->UseRealTime()
BENCHMARK(forward)
    ->Name("linear_recurrence/forward")
    ->Args({1, 2048, 1024, 16})
    ->Args({1, 2048, 384, 8})
    ->MEGALODON_SIZES;
BENCHMARK(forward_backward)
    ->Name("linear_recurrence/forward_backward")
    ->Args({1, 2048, 1024, 16})
    ->Args({1, 2048, 384, 8})
    ->Args({8, 512, 384, 16})
    ->MEGALODON_SIZES;
BENCHMARK(decode)->Name("linear_recurrence/decode")->Args({1, 1, 1024, 16})->Args({1, 1, 4096, 16})->MEGALODON_SIZES;
#undef MEGALODON_SIZES

}  // namespace
}  // namespace megalodon::ops::linear_recurrence_bench
