#include "ops/query_key/query_key.h"

#include <array>

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> query_key_cases(torch::Device device) {
  constexpr double kEps = 1e-5, kBase = 10000;
  std::vector<Operator> operators;
  using Shapes = std::vector<std::array<int64_t, 4>>;
  const Shapes shapes = device.is_cuda() ? Shapes{{131072, 2, 256, 4096}}
                                         : Shapes{{2048, 3, 64, 256}, {2048, 1, 256, 2048}, {1, 3, 64, 256}};
  for (const auto& [L, H, K, C] : shapes)
    for (const auto type : activation_types(device)) {
      const double bytes = bytes_of(type) * static_cast<double>(L * H * K);
      operators.push_back(
          {.name = "query_key",
           .shape = fmt::format("L={} H={} K={} C={}{}", L, H, K, C, type_text(type)),
           .leaves = 3,
           .inputs = {normal({1, L, H, K}, device, type), torch::randn({2, H * K}), torch::randn({2, H * K}),
                      (torch::arange(L, torch::kInt64) % C).unsqueeze(0)},
           // Queries alone are looked at: both together would be one more tensor to write.
           .kernel = [](const Tensors& t) { return query_key(t[0], t[1], t[2], t[3], kEps, kBase).q_BLHK; },
           // Angles are float32 numbers: float64 ones would differ by what that rounds away.
           .reference =
               [](const Tensors& t) {
                 const auto wide = [](const Tensor& x) { return x.to(torch::kFloat32); };
                 return ref::query_key(wide(t[0]), wide(t[1]), wide(t[2]), t[3], kEps, kBase)
                     .q_BLHK.to(torch::kFloat64);
               },
           .forward = {3 * bytes},
           .backward = {4 * bytes},
           .tolerance = tolerance_of(type, 1e-5)});
    }
  return cases(operators, device);
}

[[maybe_unused]] const bool query_key_added = add_cases("query_key", query_key_cases);

}  // namespace
}  // namespace megalodon::ops::bench
