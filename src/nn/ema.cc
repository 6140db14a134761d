#include "nn/ema.h"

#include <cmath>

#include "base/philox.h"
#include "nn/init.h"

namespace megalodon::nn {

EmaCoefficients ema_coefficients(const Tensor& delta, const Tensor& alpha, const Tensor& beta, const Tensor& gamma) {
  const Tensor p_DN = torch::sigmoid(delta).squeeze(-1);
  const Tensor q_DN = 1 - p_DN * torch::sigmoid(alpha).squeeze(-1);
  const Tensor c_DN = p_DN * beta.squeeze(-1) * gamma / std::sqrt(static_cast<double>(gamma.size(1)));
  return {p_DN, q_DN, c_DN};
}

Tensor ema_kernel(const EmaCoefficients& ema, int64_t length) {
  const Tensor power_L = torch::arange(length, ema.q_DN.options().requires_grad(false));
  return (ema.c_DN.unsqueeze(-1) * ema.q_DN.unsqueeze(-1).pow(power_L)).sum(1);
}

void init_ema(const Tensor& delta, const Tensor& alpha, const Tensor& beta, const Tensor& gamma, const Tensor& omega,
              uint64_t key) {
  torch::NoGradGuard no_grad;
  normal(delta, 0.2, derive_key(key, 0));
  normal(alpha, 0.2, derive_key(key, 1));
  normal(beta, 0.02, derive_key(key, 2));
  for (int64_t n = 0; n < beta.size(1); ++n) beta.select(1, n).add_(n % 2 == 0 ? 1 : -1);
  normal(gamma, 1, derive_key(key, 3));
  normal(omega, 1, derive_key(key, 4));
}

}  // namespace megalodon::nn
