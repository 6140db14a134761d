// ops_bench --benchmark_filter=ChunkAttention: each shape is checked against the float64 reference, then timed. FLOPs
// are the needed ones of visible pairs (chunk_attention_kernel.h), so skipped work does not count as speed.
#include <benchmark/benchmark.h>

#include "base/check.h"
#include "ops/chunk_attention/chunk_attention.h"

namespace megalodon::ops::chunk_attention_bench {
namespace {

enum Pass { kForward, kBackward, kDecode };

struct Inputs {
  Tensor q, k, v;
  ChunkAttentionOptions options;

  Tensor run(torch::Dtype dtype) const {
    ChunkAttentionOptions o = options;
    if (o.prior_k_BTHK.defined()) o.prior_k_BTHK = o.prior_k_BTHK.to(dtype), o.prior_v_BTHV = o.prior_v_BTHV.to(dtype);
    return chunk_attention(q.to(dtype), k.to(dtype), v.to(dtype), o);
  }
};

void check_parity(const Inputs& in) {
  torch::NoGradGuard no_grad;
  const Tensor expected = in.run(torch::kFloat64), got = in.run(torch::kFloat32);
  const double error = ((got - expected).abs().max() / expected.abs().max()).item<double>();
  check(error < 1e-5, "[chunk_attention_bench] the kernel must match the reference, got relative error {}", error);
}

/// Arguments L, H, K, V, C. kDecode: one query after L prior keys.
void ChunkAttention(benchmark::State& state, Pass pass) {
  const int64_t L = state.range(0), H = state.range(1), K = state.range(2), V = state.range(3), C = state.range(4);
  const int64_t queries = pass == kDecode ? 1 : L;
  Inputs in{torch::randn({1, queries, H, K}), torch::randn({1, queries, H, K}), torch::randn({1, queries, H, V}), {}};
  in.options.chunk_size = C;
  in.options.scale = 1 / std::sqrt(static_cast<double>(K));
  if (pass == kDecode)
    in.options.prior_k_BTHK = torch::randn({1, L, H, K}), in.options.prior_v_BTHV = torch::randn({1, L, H, V});
  check_parity(in);
  const bool backward = pass == kBackward;
  for (Tensor* t : {&in.q, &in.k, &in.v}) t->set_requires_grad(backward);
  const Tensor dy = torch::randn({1, queries, H, V});
  const Tensor y = in.run(torch::kFloat32);
  for (auto _ : state) {
    if (backward)
      benchmark::DoNotOptimize(torch::autograd::grad({y}, {in.q, in.k, in.v}, {dy}, /*retain_graph=*/true));
    else
      benchmark::DoNotOptimize(in.run(torch::kFloat32));
  }
  const double chunk = static_cast<double>(std::min(C, L));
  const double pairs = static_cast<double>(H) * (pass == kDecode ? L + 1.0 : static_cast<double>(L) * (chunk + 1) / 2);
  const double flops = 2 * pairs * static_cast<double>(backward ? 3 * K + 2 * V : K + V);
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(ChunkAttention, forward, kForward)
    ->Args({2048, 3, 64, 128, 256})
    ->Args({2048, 1, 256, 2048, 2048})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(ChunkAttention, backward, kBackward)
    ->Args({2048, 3, 64, 128, 256})
    ->Args({2048, 1, 256, 2048, 2048})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(ChunkAttention, decode, kDecode)
    ->Args({255, 3, 64, 128, 256})
    ->Args({2047, 1, 256, 2048, 2048})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace megalodon::ops::chunk_attention_bench
