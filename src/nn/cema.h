// Megalodon's complex exponential moving average as coefficients of ops::linear_recurrence, and moving averages of both
// directions.
#pragma once

#include "base/compat.h"

namespace megalodon::nn {

/// Megalodon, section 3.1, with p = σ(α):
///
///   q_n = (1 − p σ(δ)) · exp(i n σ(θ) 2π/N), n = 1..N          c_n = p (γ_re + i γ_im)/√N
///
/// The published recurrence feeds p x_t and weighs with γ/√N alone; moving p to the output makes its state p times
/// ours.
struct CemaCoefficients {
  Tensor p_DN;  // real
  Tensor q_DN;  // complex
  Tensor c_DN;  // complex
};

/// alpha, delta [D,N,1] · theta [D,1,1] · gamma [D,N,2] (real, imaginary): the published parameters. Differentiable.
CemaCoefficients cema_coefficients(const Tensor& alpha, const Tensor& delta, const Tensor& theta, const Tensor& gamma);

/// y_t = Re(Σ_n Σ_(j>=0) c_n q_n^j x_(t-j) + c'_n q'_n^j x_(t+j)) + skip ⊙ x_t, [B,L,D]: the first D rows of q and c
/// see the past, the others (') the future, both with the present.
Tensor two_way_average(const Tensor& x_BLD, const Tensor& q_2DN, const Tensor& c_2DN, const Tensor& skip_D);

/// Initial values: alpha, delta ~ N(0, 0.2²); theta = logit(exp(−i ln D / D)), i = 1..D, permuted; gamma real ~ N(0,
/// 1), imaginary 0; omega ~ N(0, 0.25²) cut off at ±1.
/// For two directions there are 2D rows of all but omega.
void init_cema(const Tensor& alpha, const Tensor& delta, const Tensor& theta, const Tensor& gamma, const Tensor& omega,
               uint64_t key);

}  // namespace megalodon::nn
