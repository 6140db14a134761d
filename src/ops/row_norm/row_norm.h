// Normalization over the last axis. Weights are stored minus one (published checkpoints hold them so), eps is inside
// the root:
//   rms_norm(x)   = x / sqrt(mean(x²) + eps) · (1 + weight)
//   layer_norm(x) = (x − mean(x)) / sqrt(var(x) + eps) · (1 + weight) + bias       biased variance
// Any leading shape. Weight and bias may be undefined. y is of x's dtype unless told otherwise: the input of products
// in bfloat16 is written as they read it.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, std::optional<torch::ScalarType> y_type = {});
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  std::optional<torch::ScalarType> y_type = {});

namespace ref {
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps);
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);
}  // namespace ref

}  // namespace megalodon::ops
