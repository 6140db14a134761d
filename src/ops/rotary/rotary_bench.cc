#include "ops/rotary/rotary.h"

#include <array>

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> rotary_cases(torch::Device device) {
  constexpr double kBase = 10000;
  std::vector<Operator> operators;
  using Shapes = std::vector<std::array<int64_t, 4>>;
  const Shapes shapes = device.is_cuda() ? Shapes{{131072, 2, 256, 4096}}
                                         : Shapes{{2048, 3, 64, 256}, {2048, 1, 256, 2048}, {1, 3, 64, 256}};
  for (const auto& [L, H, K, C] : shapes)
    for (const auto type : activation_types(device)) {
      const double bytes = bytes_of(type) * static_cast<double>(L * H * K);
      operators.push_back(
          {.name = "rotary",
           .shape = fmt::format("L={} H={} K={} C={}{}", L, H, K, C, type_text(type)),
           .leaves = 1,
           .inputs = {normal({1, L, H, K}, device, type), (torch::arange(L, torch::kInt64) % C).unsqueeze(0)},
           .kernel = [](const Tensors& t) { return rotary(t[0], t[1], kBase); },
           // Angles are float32 numbers: float64 ones would differ by what that rounds away.
           .reference =
               [](const Tensors& t) { return ref::rotary(t[0].to(torch::kFloat32), t[1], kBase).to(torch::kFloat64); },
           .forward = {2 * bytes},
           .backward = {2 * bytes},
           .tolerance = tolerance_of(type, 1e-5)});
    }
  return cases(operators, device);
}

[[maybe_unused]] const bool rotary_added = add_cases("rotary", rotary_cases);

}  // namespace
}  // namespace megalodon::ops::bench
