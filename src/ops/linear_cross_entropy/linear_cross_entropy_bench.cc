#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> linear_cross_entropy_cases(torch::Device device) {
  std::vector<Operator> operators;
  struct Sizes {
    int64_t tokens, dim, vocabulary;
  };
  const std::vector<Sizes> sizes = device.is_cuda()
                                       ? std::vector<Sizes>{{16384, 2048, 32000}}
                                       : std::vector<Sizes>{{4096, 256, 256}, {2048, 512, 8192}, {1024, 1024, 32000}};
  for (const Sizes& size : sizes) {
    const int64_t T = size.tokens, D = size.dim, V = size.vocabulary;
    const double flops = 2.0 * static_cast<double>(T * D * V);
    const auto inputs = [&](int64_t tokens) -> Tensors {
      return {normal({tokens, D}, device), normal({V, D}, device) / 8, torch::randint(V, {tokens}, torch::kInt64)};
    };
    operators.push_back({.name = "linear_cross_entropy",
                         .shape = fmt::format("T={} D={} V={}", T, D, V),
                         .leaves = 2,
                         .inputs = inputs(T),
                         .checked = inputs(128),
                         .kernel = [](const Tensors& t) { return linear_cross_entropy(t[0], t[1], t[2]); },
                         .reference = [](const Tensors& t) { return ref::linear_cross_entropy(t[0], t[1], t[2]); },
                         .forward = {.bytes = 0, .flops = flops},
                         .backward = {.bytes = 0, .flops = 2 * flops}});  // that logits are computed twice is overhead
  }
  return cases(operators, device);
}

[[maybe_unused]] const bool linear_cross_entropy_added = add_cases("linear_cross_entropy", linear_cross_entropy_cases);

}  // namespace
}  // namespace megalodon::ops::bench
