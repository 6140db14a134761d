// State spaces for the tests of nplr and nplr_recurrence.
#pragma once

#include <cmath>

#include "ops/nplr/nplr.h"

namespace megalodon::testing {

/// Decays and frequencies like those of trained models, complex128.
inline ops::NplrSystem random_nplr(int64_t H, int64_t N, int64_t R, uint64_t seed = 1) {
  torch::manual_seed(seed);
  const auto real = torch::dtype(torch::kFloat64), complex = torch::dtype(torch::kComplexDouble);
  const Tensor dt = torch::exp(torch::rand({H, 1}, real) * std::log(100.0) + std::log(1e-3));
  const Tensor frequency = M_PI * torch::arange(N, real) + torch::rand({H, N}, real);
  return {dt * torch::complex(-0.5 * torch::ones({H, N}, real), -frequency), dt * torch::randn({H, N}, complex),
          dt.sqrt() * torch::randn({R, H, N}, complex)};
}

inline ops::NplrSystem to(const ops::NplrSystem& system, c10::ScalarType complex) {
  return {system.a_HN.to(complex), system.b_HN.to(complex), system.p_RHN.to(complex)};
}

}  // namespace megalodon::testing
