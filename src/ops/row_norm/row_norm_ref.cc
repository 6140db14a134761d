// The specification of rms_norm and layer_norm as tensor operations.
#include "ops/row_norm/row_norm.h"

namespace megalodon::ops::ref {
namespace {

Tensor affine(const Tensor& normal, const Tensor& weight, const Tensor& bias) {
  Tensor y = weight.defined() ? normal * (1 + weight.to(normal.scalar_type())) : normal;
  return bias.defined() ? y + bias.to(normal.scalar_type()) : y;
}

Tensor over_root_mean_square(const Tensor& x, double eps) {
  return x * (x.square().mean(-1, true) + eps).rsqrt();
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return affine(over_root_mean_square(x, eps), weight, {});
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  return affine(over_root_mean_square(x - x.mean(-1, true), eps), weight, bias);
}

}  // namespace megalodon::ops::ref
