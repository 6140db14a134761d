// The convolution kernel of a state space whose matrix is normal plus low rank (S4: Gu et al., "Efficiently Modeling
// Long Sequences with Structured State Spaces", 2021):
//
//   x' = M x + b u,   y = 2 Re(c x),   M = diag(a) − Σ_r p_r p_r^*
//
// Complex vectors hold one of each pair of conjugates: N of 2N states, and p_r^* x stands for 2 Re Σ_n conj(p_r,n) x_n.
// The step size is multiplied in: a is Δ A, b is Δ B, p is √Δ P. The bilinear transform makes time discrete,
//
//   x_t = Ā x_(t-1) + B̄ u_t,   Ā = (I − M/2)⁻¹ (I + M/2),   B̄ = (I − M/2)⁻¹ b,   K_l = 2 Re(c Ā^l B̄)
//
// and the kernel's first `length` taps come from its generating function at the roots of unity, without a power of Ā:
// O(N) a tap. That takes an output row which is attuned to this length, c̃ = c (I − Ā^length): what is trained.
//
// Shapes: H features · N half the states · R rank · C channels, the output rows of one feature. complex64 or
// complex128.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

/// A state space without its output row.
struct NplrSystem {
  Tensor a_HN;   // Δ A: the normal part's eigenvalues, whose real parts are not positive
  Tensor b_HN;   // Δ B
  Tensor p_RHN;  // √Δ P
};

/// K [C,H,length], real, from an output row attuned to that length.
Tensor nplr_kernel(const NplrSystem& system, const Tensor& attuned_CHN, int64_t length);

/// The real and imaginary parts of the states as 2N real states: Ā and B̄.
struct NplrMatrices {
  Tensor a_HXX;  // X = 2N
  Tensor b_HX;
};
NplrMatrices nplr_matrices(const NplrSystem& system);

/// c (I − Ā^length), and back.
Tensor nplr_attune(const NplrSystem& system, const Tensor& c_CHN, int64_t length);
Tensor nplr_unattune(const NplrSystem& system, const Tensor& attuned_CHN, int64_t length);

struct AttunedRow {
  Tensor c_CHN;
  int64_t length;
};
/// Attuned to at least that length: by c̃ (I + Ā^length), which doubles it, as often as it takes.
AttunedRow nplr_grow(const NplrSystem& system, AttunedRow row, int64_t length);

namespace ref {
Tensor nplr_kernel(const NplrSystem& system, const Tensor& attuned_CHN, int64_t length);
}  // namespace ref

}  // namespace megalodon::ops
