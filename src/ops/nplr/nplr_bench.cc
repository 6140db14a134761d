#include "ops/bench.h"
#include "ops/nplr/nplr_testing.h"

namespace megalodon::ops::bench {
namespace {

/// The kernel of a layer of S4: H features of 2N states.
Operator nplr_case(int64_t H, int64_t N, int64_t length) {
  const auto inputs = [&](int64_t features, int64_t taps) -> Tensors {
    const NplrSystem system = testing::random_nplr(features, N, 1);
    const Tensor c = nplr_attune(system, torch::randn({1, features, N}, torch::kComplexDouble), taps);
    const auto complex = torch::kComplexFloat;
    return {system.a_HN.to(complex), system.b_HN.to(complex), system.p_RHN.to(complex), c.to(complex)};
  };
  const auto with = [](auto kernel, int64_t whole) {
    // A kernel's length is that which its inputs are attuned to; those of 32 features are checked at 100 taps.
    return [kernel, whole](const Tensors& t) {
      return kernel({t[0], t[1], t[2]}, t[3], t[0].size(0) == 32 ? 100 : whole);
    };
  };
  const auto nodes = static_cast<double>(H * (length / 2 + 1) * N);
  return {.name = "nplr",
          .shape = fmt::format("H={} N={} taps={}", H, N, length),
          .leaves = 4,
          .inputs = inputs(H, length),
          .checked = inputs(32, 100),
          .kernel = with(&nplr_kernel, length),
          .reference = with(&ref::nplr_kernel, length),
          // 1/d of each node and state, and its products with four pairs of numbers.
          .forward = {4.0 * H * length, (20 + 32) * nodes},
          .backward = {4.0 * H * length, 3 * (20 + 32) * nodes},
          .tolerance = 1e-4};
}

std::vector<Case> nplr_cases(torch::Device device) {
  return cases({nplr_case(512, 32, 1024)}, device);
}

[[maybe_unused]] const bool nplr_added = add_cases("nplr", nplr_cases);

}  // namespace
}  // namespace megalodon::ops::bench
