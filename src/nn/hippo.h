// The matrices that state spaces begin with: HiPPO (Gu et al., 2020), which makes a state remember the past as
// coefficients of polynomials, and its diagonal approximations (S4D). All float64 or complex128: functions of n alone.
#pragma once

#include <string>

#include "base/compat.h"

namespace megalodon::nn {

/// x' = A x + B u with A + Σ_r P_r P_rᵀ normal.
struct Hippo {
  Tensor A_NN, B_N, P_RN;
};

/// legs (scaled Legendre, rank 1) or legt (translated Legendre, rank 2) with n states. Throws UsageError for others.
Hippo hippo(const std::string& measure, int64_t n);

/// In the basis of eigenvectors of the normal part, one of each pair of conjugates: those with negative imaginary
/// parts, ascending. The phases of eigenvectors are arbitrary.
struct NormalPlusLowRank {
  Tensor a_N;   // eigenvalues; N = n/2
  Tensor v_nN;  // eigenvectors
  Tensor b_N, p_RN;
};

NormalPlusLowRank diagonalize(const Hippo& hippo);

/// A of a diagonal state space with N complex states: lin, inv, inv2, quad, real or legs. Throws UsageError for others.
Tensor diagonal_a(const std::string& kind, int64_t states);

}  // namespace megalodon::nn
