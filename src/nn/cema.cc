#include "nn/cema.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "base/philox.h"
#include "nn/init.h"
#include "ops/linear_recurrence/linear_recurrence.h"

namespace megalodon::nn {

CemaCoefficients cema_coefficients(const Tensor& alpha, const Tensor& delta, const Tensor& theta, const Tensor& gamma) {
  const int64_t order = alpha.size(1);
  const Tensor p_DN = torch::sigmoid(alpha).squeeze(-1);
  const Tensor magnitude_DN = 1 - p_DN * torch::sigmoid(delta).squeeze(-1);
  const Tensor angle_DN = torch::sigmoid(theta).squeeze(-1) * torch::arange(1, order + 1, theta.options()) *
                          (2 * M_PI / static_cast<double>(order));
  // Cartesian on purpose: where p σ(δ) rounds to 1 the magnitude is 0, which log(q) turns into NaN (as the published
  // code does) and polar() into a zero gradient.
  const Tensor q_DN = torch::complex(magnitude_DN * torch::cos(angle_DN), magnitude_DN * torch::sin(angle_DN));
  const Tensor c_DN = torch::view_as_complex(gamma / std::sqrt(static_cast<double>(order))) * p_DN;
  return {p_DN, q_DN, c_DN};
}

Tensor two_way_average(const Tensor& x_BLD, const Tensor& q_2DN, const Tensor& c_2DN, const Tensor& skip_D) {
  const Tensor skip_2D = torch::cat({skip_D, torch::zeros_like(skip_D)});
  const Tensor y_BLE = ops::linear_recurrence(torch::cat({x_BLD, x_BLD.flip(1)}, 2), q_2DN, c_2DN, skip_2D).y_BLD;
  const auto halves = y_BLE.chunk(2, 2);
  return halves[0] + halves[1].flip(1);
}

void init_cema(const Tensor& alpha, const Tensor& delta, const Tensor& theta, const Tensor& gamma, const Tensor& omega,
               uint64_t key) {
  torch::NoGradGuard no_grad;
  normal(alpha, 0.2, derive_key(key, 0));
  normal(delta, 0.2, derive_key(key, 1));
  const int64_t dim = theta.size(0);
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(derive_key(key, 2));
  const Tensor order_D = torch::randperm(dim, generator, torch::kInt64).to(torch::kFloat64) + 1;
  const Tensor frequency_D = torch::exp(-order_D * std::log(static_cast<double>(dim)) / static_cast<double>(dim));
  theta.copy_(torch::logit(frequency_D).view({dim, 1, 1}));
  gamma.zero_();
  normal(gamma.select(-1, 0), 1.0, derive_key(key, 3));
  truncated_normal(omega, 0.25, 1.0, derive_key(key, 4));
}

}  // namespace megalodon::nn
