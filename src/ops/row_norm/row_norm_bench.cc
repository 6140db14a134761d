#include "ops/row_norm/row_norm.h"

#include <array>

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> row_norm_cases(torch::Device device) {
  constexpr double kEps = 1e-5;
  std::vector<Operator> operators;
  // A layer, the heads of a layer, a wide model, a decoding step.
  using Shapes = std::vector<std::array<int64_t, 2>>;
  const Shapes shapes = device.is_cuda() ? Shapes{{32768, 2048}, {131072, 256}, {32768, 4096}}
                                         : Shapes{{2048, 1024}, {16384, 64}, {2048, 4096}, {1, 1024}};
  for (const auto& [rows, D] : shapes)
    for (const auto type : activation_types(device)) {
      const Tensors inputs = {normal({rows, D}, device, type), 0.1 * torch::randn({D}), torch::randn({D})};
      const double bytes = bytes_of(type) * static_cast<double>(rows * D);
      Operator op{.name = "rms_norm",
                  .shape = fmt::format("rows={} D={}{}", rows, D, type_text(type)),
                  .leaves = 2,
                  .inputs = {inputs[0], inputs[1]},
                  .kernel = [](const Tensors& t) { return rms_norm(t[0], t[1], kEps); },
                  .reference = [](const Tensors& t) { return ref::rms_norm(t[0], t[1], kEps); },
                  .forward = {2 * bytes},
                  .backward = {3 * bytes},
                  .tolerance = tolerance_of(type, 1e-5)};
      operators.push_back(op);
      op.name = "layer_norm", op.leaves = 3, op.inputs = inputs;
      op.kernel = [](const Tensors& t) { return layer_norm(t[0], t[1], t[2], kEps); };
      op.reference = [](const Tensors& t) { return ref::layer_norm(t[0], t[1], t[2], kEps); };
      operators.push_back(op);
    }
  return cases(operators, device);
}

[[maybe_unused]] const bool row_norm_added = add_cases("row_norm", row_norm_cases);

}  // namespace
}  // namespace megalodon::ops::bench
