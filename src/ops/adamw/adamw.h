// AdamW (Loshchilov & Hutter, 2019) in one pass over memory, in the order of operations of the published optimizer:
//
//   p −= lr · decay · p;   m = β1 m + (1−β1) g;   v = β2 v + (1−β2) g²;   p −= lr · (m / (1−β1^t)) / (sqrt(v /
//   (1−β2^t)) + eps)
//
// where g is the gradient times `gradient_scale` (global-norm clipping). All of a model's parameters at once: a GPU
// then has a few launches of work for all of its multiprocessors instead of one per tensor.
#pragma once

#include <vector>

#include "base/compat.h"

namespace megalodon::ops {

/// A parameter and what its update needs.
struct AdamWTensors {
  Tensor parameter, gradient, exp_avg, exp_avg_sq;
  double decay = 0;
};

struct AdamWStep {
  double lr, beta1, beta2, eps;
  int64_t step;  // t, 1 for the first update
  double gradient_scale = 1.0;
};

/// Updates parameters, exp_avg and exp_avg_sq in place (of each parameter float32, contiguous, equal shapes; float64
/// and devices without kernels run on the reference). All parameters are on one device. Gradients may have any strides
/// and any floating dtype.
void adamw(const std::vector<AdamWTensors>& list, const AdamWStep& step);

/// Σ x² of all tensors together, in float64 with a fixed order of summation: the same bits for any number of threads.
/// The tensors of a GPU, one GPU, take one pass; then it is waited for.
double sum_of_squares(torch::TensorList tensors);

namespace ref {
void adamw(const AdamWTensors& tensors, const AdamWStep& step);
}  // namespace ref

}  // namespace megalodon::ops
