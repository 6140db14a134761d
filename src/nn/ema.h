// Mega's damped multi-dimensional exponential moving average as coefficients of ops::linear_recurrence.
#pragma once

#include "base/compat.h"

namespace megalodon::nn {

/// Mega (Ma et al., 2023), section 3.1, with p = σ(δ) and real q:
///
///   q_n = 1 − p σ(α)          c_n = p β γ/√N          k[j] = Σ_n c_n q_n^j
///
/// The published recurrence feeds p β x_t; moving both to the output makes its state p β times ours.
struct EmaCoefficients {
  Tensor p_DN, q_DN, c_DN;  // real
};

/// delta, alpha, beta [D,N,1] · gamma [D,N]: the published parameters. Differentiable.
EmaCoefficients ema_coefficients(const Tensor& delta, const Tensor& alpha, const Tensor& beta, const Tensor& gamma);

/// The first `length` taps k[j], [D,length].
Tensor ema_kernel(const EmaCoefficients& ema, int64_t length);

/// Initial values: delta, alpha ~ N(0, 0.2²); beta = 1, −1, 1, … + N(0, 0.02²); gamma, omega ~ N(0, 1).
void init_ema(const Tensor& delta, const Tensor& alpha, const Tensor& beta, const Tensor& gamma, const Tensor& omega,
              uint64_t key);

}  // namespace megalodon::nn
