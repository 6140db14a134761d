#include "ops/adamw/adamw.h"

#include <cmath>

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

std::vector<Case> adamw_cases(torch::Device device) {
  const int64_t count = 1 << (device.is_cuda() ? 27 : 24);
  const std::string shape = fmt::format("{} numbers", count);
  const auto n = static_cast<double>(count);
  const double decay = 0.1;
  const AdamWStep step{.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .step = 10};
  const Tensor p = normal({count}, device), g = normal({count}, device), m = torch::zeros_like(p),
               v = torch::zeros_like(p);
  const auto error = [=] {
    const int64_t some = 1 << 20;
    const auto first = [&](const Tensor& t, torch::ScalarType type) {
      return t.narrow(0, 0, some).to(type, false, true);
    };
    const auto f32 = torch::kFloat32, f64 = torch::kFloat64;
    const Tensor got = first(p, f32), expected = first(p, f64);
    adamw({{got, first(g, f32), first(m, f32), first(v, f32), decay}}, step);
    ref::adamw({expected, first(g, f64), first(m, f64), first(v, f64), decay}, step);
    return ((got.to(f64) - expected).abs().max() / expected.abs().max()).item<double>();
  };
  const auto sum_error = [=] {
    const double expected = g.to(torch::kFloat64).square().sum().item<double>();
    return std::abs(sum_of_squares(g) - expected) / expected;
  };
  return {{"adamw",
           "update",
           shape,
           {28 * n},
           1e-6,
           error,
           [=] {
             adamw({{p, g, m, v, decay}}, step);
           }},
          {"sum_of_squares", "forward", shape, {4 * n}, 1e-12, sum_error, [=] { sum_of_squares(g); }}};
}

[[maybe_unused]] const bool adamw_added = add_cases("adamw", adamw_cases);

}  // namespace
}  // namespace megalodon::ops::bench
