#include "ops/gated_silu/gated_silu.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> gated_silu_cases(torch::Device device) {
  const int64_t rows = device.is_cuda() ? 32768 : 2048, F = device.is_cuda() ? 4864 : 2560;
  std::vector<Operator> operators;
  for (const auto type : activation_types(device)) {
    const double bytes = bytes_of(type) * static_cast<double>(rows * F);
    operators.push_back({.name = "gated_silu",
                         .shape = fmt::format("rows={} F={}{}", rows, F, type_text(type)),
                         .leaves = 2,
                         .inputs = {normal({rows, F}, device, type), normal({rows, F}, device, type)},
                         .kernel = [](const Tensors& t) { return gated_silu(t[0], t[1]); },
                         .reference = [](const Tensors& t) { return ref::gated_silu(t[0], t[1]); },
                         .forward = {3 * bytes},
                         .backward = {5 * bytes},
                         .tolerance = tolerance_of(type, 1e-5)});
  }
  return cases(operators, device);
}

[[maybe_unused]] const bool gated_silu_added = add_cases("gated_silu", gated_silu_cases);

}  // namespace
}  // namespace megalodon::ops::bench
