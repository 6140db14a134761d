// Sequence normalization: the non-causal twin of timestep_norm. Every valid step is normalized with the statistics of
// the whole valid sequence:  y = (x − mean) · rstd · scale + bias,  rstd = 1/sqrt(var + eps), variance biased and over
// all features of the group and all valid steps. Masked steps output 0 and have no gradient. `scale` is the whole
// multiplier (no 1 +). Runs as a composition of tensor operators.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

struct SequenceNormOut {
  Tensor y_BLD;
  Tensor count_B;  // int64, valid steps
  Tensor mean_BG, rstd_BG;
};

struct SequenceNormOptions {
  int64_t groups = 1;
  double eps = 1e-5;
  Tensor padding_mask_BL{};  // bool, true at steps to leave out; undefined: none
};

SequenceNormOut sequence_norm(const Tensor& x_BLD, const Tensor& scale_D, const Tensor& bias_D,
                              const SequenceNormOptions& options);

}  // namespace megalodon::ops
