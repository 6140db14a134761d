#include "ops/bench.h"
#include "ops/linear/linear.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> linear_cases(torch::Device device) {
  struct Sizes {
    int64_t tokens, in, out;
  };
  std::vector<Operator> operators;
  const std::vector<Sizes> sizes = device.is_cuda() ? std::vector<Sizes>{{32768, 2048, 4864}, {32768, 4864, 2048}}
                                                    : std::vector<Sizes>{{2048, 384, 1024}, {2048, 1024, 2560}};
  for (const Sizes& size : sizes)
    for (const Precision precision : {Precision::kFloat32, Precision::kBfloat16}) {
      const double flops = 2.0 * static_cast<double>(size.tokens * size.in * size.out);
      const bool low = precision == Precision::kBfloat16;
      const auto packed = c10::make_intrusive<PackedWeight>();  // as in training: between two steps weights stay
      operators.push_back(
          {.name = "linear",
           .shape = fmt::format("T={} I={} O={}{}", size.tokens, size.in, size.out, low ? ", bfloat16" : ""),
           .leaves = 2,
           .inputs = {normal({size.tokens, size.in}, device), normal({size.out, size.in}, device)},
           .kernel =
               [=](const Tensors& t) { return linears(t[0], {{.weight = t[1], .packed = packed}}, precision)[0]; },
           .reference = [](const Tensors& t) { return ref::linear(t[0], t[1], {}, Precision::kFloat32); },
           .forward = {.bytes = 0, .flops = flops},
           .backward = {.bytes = 0, .flops = 2 * flops},
           .tolerance = low ? 3e-2 : 1e-5});
    }
  return cases(operators, device);
}

[[maybe_unused]] const bool linear_added = add_cases("linear", linear_cases);

}  // namespace
}  // namespace megalodon::ops::bench
