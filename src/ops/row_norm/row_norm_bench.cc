#include "ops/row_norm/row_norm.h"

#include <array>

#include "ops/bench.h"

namespace megalodon::ops::bench {

std::vector<Case> row_norm_cases() {
  constexpr double kEps = 1e-5;
  std::vector<Operator> operators;
  // A layer, the heads of a layer, a wide model, a decoding step.
  for (const auto& [rows, D] : {std::array<int64_t, 2>{2048, 1024}, {16384, 64}, {2048, 4096}, {1, 1024}}) {
    const Tensors inputs = {torch::randn({rows, D}), 0.1 * torch::randn({D}), torch::randn({D})};
    const double bytes = 4.0 * static_cast<double>(rows * D);
    Operator op{.name = "rms_norm",
                .shape = fmt::format("rows={} D={}", rows, D),
                .leaves = 2,
                .inputs = {inputs[0], inputs[1]},
                .kernel = [](const Tensors& t) { return rms_norm(t[0], t[1], kEps); },
                .reference = [](const Tensors& t) { return ref::rms_norm(t[0], t[1], kEps); },
                .forward = {2 * bytes},
                .backward = {3 * bytes}};
    operators.push_back(op);
    op.name = "layer_norm", op.leaves = 3, op.inputs = inputs;
    op.kernel = [](const Tensors& t) { return layer_norm(t[0], t[1], t[2], kEps); };
    op.reference = [](const Tensors& t) { return ref::layer_norm(t[0], t[1], t[2], kEps); };
    operators.push_back(op);
  }
  return cases(operators);
}

}  // namespace megalodon::ops::bench
