// The specification of the update, line by line as in the header.
#include <cmath>

#include "ops/adamw/adamw.h"

namespace megalodon::ops::ref {

void adamw(const AdamWTensors& tensors, const AdamWStep& step) {
  const torch::NoGradGuard no_grad;
  const auto& [parameter, gradient, exp_avg, exp_avg_sq, decay] = tensors;
  const auto t = static_cast<double>(step.step);
  const Tensor g = gradient.to(parameter.scalar_type()) * step.gradient_scale;
  parameter.mul_(1 - step.lr * decay);
  exp_avg.mul_(step.beta1).add_(g, 1 - step.beta1);
  exp_avg_sq.mul_(step.beta2).addcmul_(g, g, 1 - step.beta2);
  const Tensor m = exp_avg / (1 - std::pow(step.beta1, t)), v = exp_avg_sq / (1 - std::pow(step.beta2, t));
  parameter.addcdiv_(m, v.sqrt().add_(step.eps), -step.lr);
}

}  // namespace megalodon::ops::ref
