#include "ops/chunk_attention/chunk_attention.h"

#include <cmath>

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {
namespace chunk_attention_bench {

struct Shape {
  int64_t L, H, K, V, C;
};

std::string text(const Shape& s) {
  return fmt::format("L={} H={} K={} V={} C={}", s.L, s.H, s.K, s.V, s.C);
}

/// Only pairs that see each other count.
Work work(const Shape& s, double pairs, bool backward) {
  return {.bytes = 0, .flops = 2 * pairs * static_cast<double>(backward ? 3 * s.K + 2 * s.V : s.K + s.V)};
}

Operator training(const Shape& s, Precision precision, torch::Device device) {
  ChunkAttentionOptions options;
  options.chunk_size = s.C, options.precision = precision;
  const auto some = [&](int64_t L) -> Tensors {
    return {normal({1, L, s.H, s.K}, device) / std::sqrt(static_cast<double>(s.K)), normal({1, L, s.H, s.K}, device),
            normal({1, L, s.H, s.V}, device)};
  };
  const double pairs = static_cast<double>(s.H * s.L) * static_cast<double>(std::min(s.C, s.L) + 1) / 2;
  return {.name = "chunk_attention",
          .shape = text(s) + (precision == Precision::kBfloat16 ? ", bfloat16" : ""),
          .leaves = 3,
          .inputs = some(s.L),
          .checked = some(std::min<int64_t>(s.L, 2048)),
          .kernel = [=](const Tensors& t) { return chunk_attention(t[0], t[1], t[2], options); },
          .reference = [=](const Tensors& t) { return ref::chunk_attention(t[0], t[1], t[2], options); },
          .forward = work(s, pairs, false),
          .backward = work(s, pairs, true),
          .tolerance = precision == Precision::kBfloat16 ? 3e-2 : 1e-5};
}

/// One query after L prior keys.
Operator decoding(const Shape& s) {
  const auto options = [=](const Tensors& t) {
    ChunkAttentionOptions result;
    result.chunk_size = s.C, result.scale = 1 / std::sqrt(static_cast<double>(s.K));
    result.prior_k_BTHK = t[3], result.prior_v_BTHV = t[4];
    return result;
  };
  Operator op{.name = "chunk_attention",
              .shape = text(s) + ", one query",
              .inputs = {torch::randn({1, 1, s.H, s.K}), torch::randn({1, 1, s.H, s.K}), torch::randn({1, 1, s.H, s.V}),
                         torch::randn({1, s.L, s.H, s.K}), torch::randn({1, s.L, s.H, s.V})},
              .kernel = [=](const Tensors& t) { return chunk_attention(t[0], t[1], t[2], options(t)); },
              .reference = [=](const Tensors& t) { return ref::chunk_attention(t[0], t[1], t[2], options(t)); },
              .forward = work(s, static_cast<double>(s.H * (s.L + 1)), false)};
  op.forward.bytes = 4.0 * static_cast<double>(s.L * s.H * (s.K + s.V));
  return op;
}

}  // namespace chunk_attention_bench

std::vector<Case> chunk_attention_cases(torch::Device device) {
  using namespace chunk_attention_bench;
  if (device.is_cuda()) {
    const Shape at_4096 = {32768, 2, 256, 2048, 4096}, at_2048 = {32768, 2, 256, 2048, 2048};
    return cases({training(at_4096, Precision::kBfloat16, device), training(at_2048, Precision::kBfloat16, device),
                  decoding({4095, 2, 256, 2048, 4096})},
                 device);
  }
  const Shape byte11m = {2048, 3, 64, 128, 256}, mega200M = {2048, 1, 256, 2048, 2048};
  return cases({training(byte11m, Precision::kFloat32, device), training(byte11m, Precision::kBfloat16, device),
                training(mega200M, Precision::kFloat32, device), training(mega200M, Precision::kBfloat16, device),
                decoding({255, 3, 64, 128, 256}), decoding({2047, 1, 256, 2048, 2048})},
               device);
}

[[maybe_unused]] const bool chunk_attention_added = add_cases("chunk_attention", chunk_attention_cases);

}  // namespace
}  // namespace megalodon::ops::bench
