#include "ops/dropout/dropout.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {

std::vector<Case> dropout_cases() {
  const int64_t count = 1 << 21;
  const double bytes = 4.0 * static_cast<double>(count);
  return cases({{.name = "dropout",
                 .shape = fmt::format("{} numbers", count),
                 .leaves = 1,
                 .inputs = {torch::randn({count})},
                 .kernel = [](const Tensors& t) { return ops::dropout(t[0], 0.1, 1); },
                 .reference = [](const Tensors& t) { return ref::dropout(t[0], 0.1, 1); },
                 .forward = {2 * bytes},
                 .backward = {2 * bytes}}});
}

}  // namespace megalodon::ops::bench
