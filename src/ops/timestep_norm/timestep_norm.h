// Timestep normalization (Megalodon, section 3.2): group statistics over all features of the group and all valid steps
// 1..t, within-step spread included, continued from (count, mean, var). With m_t, s_t the mean and mean square of a
// group at step t:
//
//   n = n0 + #valid(1..t)      mean = (n0 mean0 + Σ m) / n      var = (n0 (var0 + mean0²) + Σ s) / n − mean²
//   y = (x − mean) · rsqrt(var + eps) · (1 + weight) + bias
//
// The current step is included. A masked step outputs 0, changes nothing and has no gradient. Where a document starts,
// the statistics begin afresh (count 0). Counts are steps (int64); statistics are float64 in and out, so that step 10^9
// still moves them (the published code keeps them in the compute dtype). y is of x's dtype unless told otherwise:
// beside a residual stream in float32, activations may be bfloat16.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

struct TimestepNormState {
  Tensor count_B{};  // int64
  Tensor mean_BG{};  // float64
  Tensor var_BG{};   // float64, biased
  bool defined() const { return count_B.defined(); }
};

struct TimestepNormOut {
  Tensor y_BLD;
  TimestepNormState state;  // after the last step
};

struct TimestepNormOptions {
  int64_t groups = 1;  // D is divisible by it; D itself normalizes every feature alone
  double eps = 1e-5;
  /// Before the first step; undefined: a fresh start. mean and var may be float32 and may need a gradient.
  TimestepNormState state{};
  Tensor padding_mask_BL{};                   // bool, true at steps to leave out; undefined: none
  Tensor starts_BL{};                         // bool, true where a document begins; undefined: none
  std::optional<torch::ScalarType> y_type{};  // nothing: x's
};

/// weight_D (stored minus one) and bias_D may both be undefined.
TimestepNormOut timestep_norm(const Tensor& x_BLD, const Tensor& weight_D, const Tensor& bias_D,
                              const TimestepNormOptions& options);

namespace ref {
TimestepNormOut timestep_norm(const Tensor& x_BLD, const Tensor& weight_D, const Tensor& bias_D,
                              const TimestepNormOptions& options);
}  // namespace ref

}  // namespace megalodon::ops
