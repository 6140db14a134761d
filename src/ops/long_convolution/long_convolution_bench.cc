#include "ops/long_convolution/long_convolution.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

Operator long_convolution_case(int64_t B, int64_t L, int64_t D, torch::Device device) {
  const auto inputs = [&](int64_t steps) -> Tensors {
    return {normal({B, steps, D}, device), normal({1, D, steps}, device), normal({1, D}, device)};
  };
  const auto numbers = static_cast<double>(B * L * D), taps = static_cast<double>(L * D);
  return {.name = "long_convolution",
          .shape = fmt::format("B={} L={} D={}", B, L, D),
          .leaves = 3,
          .inputs = inputs(L),
          .checked = inputs(std::min<int64_t>(L, 24)),
          .kernel = [](const Tensors& t) { return long_convolution(t[0], t[1], t[2]); },
          .reference = [](const Tensors& t) { return ref::long_convolution(t[0], t[1], t[2]); },
          .forward = {8 * numbers + 4 * taps, 0},
          .backward = {12 * numbers + 8 * taps, 0}};
}

std::vector<Case> long_convolution_cases(torch::Device device) {
  return cases({long_convolution_case(1, 2048, 512, device), long_convolution_case(4, 1024, 512, device)}, device);
}

[[maybe_unused]] const bool long_convolution_added = add_cases("long_convolution", long_convolution_cases);

}  // namespace
}  // namespace megalodon::ops::bench
