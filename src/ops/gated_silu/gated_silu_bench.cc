#include "ops/gated_silu/gated_silu.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {

std::vector<Case> gated_silu_cases() {
  const int64_t rows = 2048, F = 2560;
  const double bytes = 4.0 * static_cast<double>(rows * F);
  return cases({{.name = "gated_silu",
                 .shape = fmt::format("rows={} F={}", rows, F),
                 .leaves = 2,
                 .inputs = {torch::randn({rows, F}), torch::randn({rows, F})},
                 .kernel = [](const Tensors& t) { return gated_silu(t[0], t[1]); },
                 .reference = [](const Tensors& t) { return ref::gated_silu(t[0], t[1]); },
                 .forward = {3 * bytes},
                 .backward = {5 * bytes}}});
}

}  // namespace megalodon::ops::bench
