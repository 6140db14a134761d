// AdamW (Loshchilov & Hutter, 2019) in one pass over memory, in the order of operations of the published optimizer:
//
//   p −= lr · decay · p;   m = β1 m + (1−β1) g;   v = β2 v + (1−β2) g²;   p −= lr · (m / (1−β1^t)) / (sqrt(v /
//   (1−β2^t)) + eps)
//
// where g is the gradient times `gradient_scale` (global-norm clipping).
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

struct AdamWStep {
  double lr, beta1, beta2, eps, decay;
  int64_t step;  // t, 1 for the first update
  double gradient_scale = 1.0;
};

/// Updates parameter, exp_avg and exp_avg_sq in place (float32, contiguous, equal shapes; float64 and other devices run
/// on the reference). The gradient may have any strides and any floating dtype.
void adamw(const Tensor& parameter, const Tensor& gradient, const Tensor& exp_avg, const Tensor& exp_avg_sq,
           const AdamWStep& step);

/// Σ x² in float64 with a fixed order of summation: the same bits for any number of threads.
double sum_of_squares(const Tensor& x);

namespace ref {
void adamw(const Tensor& parameter, const Tensor& gradient, const Tensor& exp_avg, const Tensor& exp_avg_sq,
           const AdamWStep& step);
}  // namespace ref

}  // namespace megalodon::ops
