#include "ops/rotary/rotary.h"

#include <array>

#include "ops/bench.h"

namespace megalodon::ops::bench {

std::vector<Case> rotary_cases() {
  constexpr double kBase = 10000;
  std::vector<Operator> operators;
  for (const auto& [L, H, K, C] : {std::array<int64_t, 4>{2048, 3, 64, 256}, {2048, 1, 256, 2048}, {1, 3, 64, 256}}) {
    const double bytes = 4.0 * static_cast<double>(L * H * K);
    operators.push_back(
        {.name = "rotary",
         .shape = fmt::format("L={} H={} K={} C={}", L, H, K, C),
         .leaves = 1,
         .inputs = {torch::randn({1, L, H, K}), (torch::arange(L, torch::kInt64) % C).unsqueeze(0)},
         .kernel = [](const Tensors& t) { return rotary(t[0], t[1], kBase); },
         // Angles are float32 numbers: float64 ones would differ by what that rounds away.
         .reference =
             [](const Tensors& t) { return ref::rotary(t[0].to(torch::kFloat32), t[1], kBase).to(torch::kFloat64); },
         .forward = {2 * bytes},
         .backward = {2 * bytes}});
  }
  return cases(operators);
}

}  // namespace megalodon::ops::bench
