// The state space of nplr.h step by step, for streams. Ā x + B̄ u takes no matrix: by Woodbury's identity
//
//   x_t = q ⊙ x_(t-1) + β u_t − Σ_r w_r s_r        s_r = 2 Re(f_r x_(t-1)) + φ_r u_t
//   y_t = 2 Re(c x_t) + skip ⊙ u_t
//
// with e = 1/(1 − a/2), q = (1 + a/2) e, β = e b, f = 2 conj(p) e, φ = 2 Re(p^* β), w = e p (2 I + p^* e p)⁻¹.
//
// Shapes: B batch · L time · D features · N half the states, complex · R rank. u and y are real, float32 or float64,
// coefficients and states complex of that width. Where no gradient is asked for, float32 runs on the kernel.
#pragma once

#include "ops/linear_recurrence/linear_recurrence.h"
#include "ops/nplr/nplr.h"

namespace megalodon::ops {

struct NplrStep {
  Tensor q_DN, beta_DN;
  Tensor f_RDN, w_RDN;
  Tensor phi_RD;  // real
};

/// Differentiable.
NplrStep nplr_step(const NplrSystem& system);

/// c, not attuned to any length. States are x_t.
RecurrenceOut nplr_recurrence(const Tensor& u_BLD, const NplrStep& step, const Tensor& c_DN, const Tensor& skip_D,
                              const RecurrenceOptions& options = {});

namespace ref {
RecurrenceOut nplr_recurrence(const Tensor& u_BLD, const NplrStep& step, const Tensor& c_DN, const Tensor& skip_D,
                              const RecurrenceOptions& options = {});
}  // namespace ref

}  // namespace megalodon::ops
