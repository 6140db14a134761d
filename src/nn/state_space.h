// State spaces x' = A x + B u, y = 2 Re(C x) of S4 (Gu et al., "Efficiently Modeling Long Sequences with Structured
// State Spaces", 2021) and S4D (Gu et al., "On the Parameterization and Initialization of Diagonal State Space Models",
// 2022): from the trained parameters to coefficients of ops::linear_recurrence and ops::nplr_*.
//
// Shapes: H features · N half the states (one of each pair of conjugates) · S rows, each shared by every S-th feature ·
// C channels · R rank. Coefficients are complex128 whatever the parameters are, and differentiable.
#pragma once

#include <string>

#include "ops/nplr_kernel/nplr_kernel.h"

namespace megalodon::nn {

/// Under their published names. Complex ones end in an axis (real, imaginary), but where A_imag is undefined: then all
/// are real.
struct StateSpaceParameters {
  Tensor inv_dt;          // [H,1], or [H,N]: a step size for each state
  Tensor A_real, A_imag;  // [S,N]:  A = −f(A_real) − i A_imag
  Tensor B;               // [1,S,N]
  Tensor C;               // [C,H,N]
  Tensor P;               // [R,S,N]; undefined: the matrix is diagonal
};

struct StateSpaceOptions {
  std::string discretization = "zoh";  // of a diagonal matrix: zoh, bilinear; others are bilinear
  std::string dt_transform = "exp";    // Δ of inv_dt: exp, softplus
  std::string real_transform = "exp";  // f: exp, relu (max(x, 0) + 1e-4)
};

struct StateSpace {
  Tensor dt;  // real, as inv_dt
  Tensor a_HN, b_HN;
  Tensor c_CHN;
  Tensor p_RHN;  // undefined: diagonal
};

/// Throws UsageError for a transform of another name.
StateSpace state_space(const StateSpaceParameters& parameters, const StateSpaceOptions& options);

/// x_t = q x_(t-1) + b u_t:
///   zoh       q = exp(Δ A)                  b = B (q − 1)/A
///   bilinear  q = (1 + Δ A/2)/(1 − Δ A/2)   b = Δ B/(1 − Δ A/2)
/// As a linear recurrence the state is divided by b and c is 2 C b. Throws UsageError for another discretization.
struct DiagonalSystem {
  Tensor q_HN, b_HN;
};
DiagonalSystem discretize(const StateSpace& space, const std::string& discretization);

/// With the step sizes multiplied in.
ops::NplrSystem nplr_system(const StateSpace& space);

}  // namespace megalodon::nn
