#include "ops/timestep_norm/timestep_norm.h"

#include <array>

#include "ops/bench.h"

namespace megalodon::ops::bench {

std::vector<Case> timestep_norm_cases() {
  std::vector<Operator> operators;
  for (const auto& [B, L, D, G] : {std::array<int64_t, 4>{1, 2048, 1024, 32},
                                   {1, 2048, 4096, 64},
                                   {8, 512, 1024, 32},
                                   {1, 2048, 384, 32},
                                   {1, 1, 1024, 32}}) {
    const double bytes = 4.0 * static_cast<double>(B * L * D);
    const TimestepNormOptions options{.groups = G};
    operators.push_back(
        {.name = "timestep_norm",
         .shape = fmt::format("B={} L={} D={} G={}", B, L, D, G),
         .leaves = 3,
         .inputs = {torch::randn({B, L, D}), 0.1 * torch::randn({D}), torch::randn({D})},
         .kernel = [=](const Tensors& t) { return timestep_norm(t[0], t[1], t[2], options).y_BLD; },
         .reference = [=](const Tensors& t) { return ref::timestep_norm(t[0], t[1], t[2], options).y_BLD; },
         .forward = {2 * bytes},
         .backward = {3 * bytes},
         .tolerance = 1e-4});
  }
  return cases(operators);
}

}  // namespace megalodon::ops::bench
