// State spaces x' = A x + B u, y = 2 Re(C x) of S4 (Gu et al., "Efficiently Modeling Long Sequences with Structured
// State Spaces", 2021) and S4D (Gu et al., "On the Parameterization and Initialization of Diagonal State Space Models",
// 2022): from the trained parameters to coefficients of ops::linear_recurrence and ops::nplr_*.
//
// Shapes: H features · N half the states (one of each pair of conjugates) · S rows, each shared by every S-th feature ·
// C channels · R rank. Coefficients are complex128 whatever the parameters are, and differentiable.
#pragma once

#include <string>
#include <vector>

#include "ops/nplr_recurrence/nplr_recurrence.h"

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

struct StateSpaceTransforms {
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
StateSpace state_space(const StateSpaceParameters& parameters, const StateSpaceTransforms& transforms = {});

/// x_t = q x_(t-1) + b u_t of a diagonal matrix:
///   zoh       q = exp(Δ A)                  b = B (q − 1)/A
///   bilinear  q = (1 + Δ A/2)/(1 − Δ A/2)   b = Δ B/(1 − Δ A/2)
/// Throws UsageError for another discretization.
struct DiagonalSystem {
  Tensor q_HN, b_HN;
};
DiagonalSystem discretize(const StateSpace& space, const std::string& discretization);

/// Of a matrix with a low-rank part, with the step sizes multiplied in.
ops::NplrSystem nplr_system(const StateSpace& space);

/// How a layer uses a state space.
struct StateSpaceUse {
  std::string discretization = "zoh";  // of a diagonal matrix; others are bilinear
  int64_t attuned_length = 0;          // with a low-rank part: the length that C is attuned to; 0: to none
};

/// The convolution kernel's first taps [C,H,length], real, float32 or float64.
Tensor convolution_kernel(const StateSpace& space, const StateSpaceUse& use, int64_t length, torch::ScalarType type);

/// With a low-rank part: 2 Re(C Ā^(l+1) x) of states x [B,H,N], what `length` steps of silence still say of the past.
/// [B,length,C·H], channel by channel.
Tensor response(const StateSpace& space, const StateSpaceUse& use, const Tensor& states_BHN, int64_t length,
                torch::ScalarType type);

/// A state space as a recurrence, whose coefficients are worth keeping between calls.
struct StateSpaceRecurrence {
  Tensor q_HN;               // of a diagonal matrix: states are x_t/b
  ops::NplrStep step;        // with a low-rank part: states are x_t
  std::vector<Tensor> c_HN;  // of each channel
};
StateSpaceRecurrence recurrence(const StateSpace& space, const StateSpaceUse& use, torch::ScalarType type);

/// u [B,L,H] to y [B,L,C·H], channel by channel, with skip [C,H]. The state is that of all channels.
ops::RecurrenceOut run(const StateSpaceRecurrence& recurrence, const Tensor& u_BLH, const Tensor& skip_CH,
                       const ops::RecurrenceOptions& options = {});

}  // namespace megalodon::nn
