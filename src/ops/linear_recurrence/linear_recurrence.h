// The recurrence behind every moving average and state space of this project (Megalodon CEMA, Mega EMA, S4D):
//
//   h_t = q ⊙ h_(t-1) + x_t                     h, q complex [.., D, N]; x_t real, broadcast over N
//   y_t = Re( Σ_n c_n h_t,n ) + skip ⊙ x_t
//
// Shapes: B batch · L time · D model · N order. x, y, skip are real; q, c, h complex of the matching width. Gradients
// of complex tensors follow torch: dL/dRe + i dL/dIm. Float32 runs on the kernel, float64 (and MEGALODON_KERNELS=ref)
// on the reference.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

struct RecurrenceOut {
  Tensor y_BLD;
  Tensor h_BDN;  // the state after the last step; undefined unless asked for
};

struct RecurrenceOptions {
  Tensor h0_BDN;     // the state before the first step; undefined: zero
  Tensor starts_BL;  // bool, true where a document begins: the history is dropped there (h_t = x_t); undefined: none
  bool want_state = false;
};

RecurrenceOut linear_recurrence(const Tensor& x_BLD, const Tensor& q_DN, const Tensor& c_DN, const Tensor& skip_D,
                                const RecurrenceOptions& options = {});

namespace ref {
RecurrenceOut linear_recurrence(const Tensor& x_BLD, const Tensor& q_DN, const Tensor& c_DN, const Tensor& skip_D,
                                const RecurrenceOptions& options = {});
}  // namespace ref

}  // namespace megalodon::ops
