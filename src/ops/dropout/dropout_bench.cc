#include "ops/dropout/dropout.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> dropout_cases(torch::Device device) {
  const int64_t count = 1 << (device.is_cuda() ? 26 : 21);
  const double bytes = 4.0 * static_cast<double>(count);
  return cases({{.name = "dropout",
                 .shape = fmt::format("{} numbers", count),
                 .leaves = 1,
                 .inputs = {normal({count}, device)},
                 .kernel = [](const Tensors& t) { return ops::dropout(t[0], 0.1, 1); },
                 .reference = [](const Tensors& t) { return ref::dropout(t[0], 0.1, 1); },
                 .forward = {2 * bytes},
                 .backward = {2 * bytes}}},
               device);
}

[[maybe_unused]] const bool dropout_added = add_cases("dropout", dropout_cases);

}  // namespace
}  // namespace megalodon::ops::bench
