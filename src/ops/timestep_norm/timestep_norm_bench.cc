#include "ops/timestep_norm/timestep_norm.h"

#include <array>

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> timestep_norm_cases(torch::Device device) {
  std::vector<Operator> operators;
  using Shapes = std::vector<std::array<int64_t, 4>>;
  const Shapes shapes =
      device.is_cuda()
          ? Shapes{{1, 32768, 2048, 64}, {8, 4096, 2048, 64}}
          : Shapes{{1, 2048, 1024, 32}, {1, 2048, 4096, 64}, {8, 512, 1024, 32}, {1, 2048, 384, 32}, {1, 1, 1024, 32}};
  for (const auto& [B, L, D, G] : shapes)
    for (const auto type : activation_types(device)) {
      const double bytes = bytes_of(type) * static_cast<double>(B * L * D);
      const TimestepNormOptions options{.groups = G};
      operators.push_back(
          {.name = "timestep_norm",
           .shape = fmt::format("B={} L={} D={} G={}{}", B, L, D, G, type_text(type)),
           .leaves = 3,
           .inputs = {normal({B, L, D}, device, type), 0.1 * torch::randn({D}), torch::randn({D})},
           .checked = {normal({B, std::min<int64_t>(L, 2048), D}, device, type), 0.1 * torch::randn({D}),
                       torch::randn({D})},
           .kernel = [=](const Tensors& t) { return timestep_norm(t[0], t[1], t[2], options).y_BLD; },
           .reference = [=](const Tensors& t) { return ref::timestep_norm(t[0], t[1], t[2], options).y_BLD; },
           .forward = {2 * bytes},
           .backward = {3 * bytes},
           .tolerance = tolerance_of(type, 1e-4)});
    }
  return cases(operators, device);
}

[[maybe_unused]] const bool timestep_norm_added = add_cases("timestep_norm", timestep_norm_cases);

}  // namespace
}  // namespace megalodon::ops::bench
