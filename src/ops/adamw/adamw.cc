#include "ops/adamw/adamw.h"

#include <cmath>

#include "base/check.h"
#include "ops/adamw/adamw_kernel.h"
#include "ops/registration.h"

namespace megalodon::ops {
namespace {

void check_updated(const Tensor& tensor, const char* name, const Tensor& parameter) {
  check(tensor.sizes() == parameter.sizes() && tensor.scalar_type() == parameter.scalar_type() &&
            tensor.device() == parameter.device() && tensor.is_contiguous(),
        "[adamw] {} must be contiguous {} {} on {} like the parameter, got {} {} on {}", name,
        toString(parameter.scalar_type()), c10::str(parameter.sizes()), parameter.device().str(),
        toString(tensor.scalar_type()), c10::str(tensor.sizes()), tensor.device().str());
}

void check_inputs(const Tensor& parameter, const Tensor& gradient, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                  const AdamWStep& step) {
  const auto type = parameter.scalar_type();
  check(type == torch::kFloat32 || type == torch::kFloat64,
        "[adamw] parameters must be float32 (or float64) masters, got {}", toString(type));
  check_updated(parameter, "parameter", parameter);
  check_updated(exp_avg, "exp_avg", parameter);
  check_updated(exp_avg_sq, "exp_avg_sq", parameter);
  check(gradient.sizes() == parameter.sizes() && gradient.is_floating_point(),
        "[adamw] the gradient must be floating point {} like the parameter, got {} {}", c10::str(parameter.sizes()),
        toString(gradient.scalar_type()), c10::str(gradient.sizes()));
  check(step.step >= 1, "[adamw] step counts from 1, got {}", step.step);
  check(step.beta1 >= 0 && step.beta1 < 1 && step.beta2 >= 0 && step.beta2 < 1,
        "[adamw] betas must be in [0, 1), got {} and {}", step.beta1, step.beta2);
}

}  // namespace

void adamw(const Tensor& parameter, const Tensor& gradient, const Tensor& exp_avg, const Tensor& exp_avg_sq,
           const AdamWStep& step) {
  check_inputs(parameter, gradient, exp_avg, exp_avg_sq, step);
  if (!use_cpu_kernel(parameter)) {
    ref::adamw(parameter, gradient, exp_avg, exp_avg_sq, step);
    return;
  }
  const Tensor g = gradient.detach().to(torch::kFloat32).contiguous();
  const auto t = static_cast<double>(step.step);
  adamw_cpu({.parameter = parameter.data_ptr<float>(),
             .gradient = g.data_ptr<float>(),
             .exp_avg = exp_avg.data_ptr<float>(),
             .exp_avg_sq = exp_avg_sq.data_ptr<float>(),
             .size = parameter.numel(),
             .shrink = static_cast<float>(1 - step.lr * step.decay),
             .beta1 = static_cast<float>(step.beta1),
             .beta2 = static_cast<float>(step.beta2),
             .rest1 = static_cast<float>(1 - step.beta1),
             .rest2 = static_cast<float>(1 - step.beta2),
             .rate = static_cast<float>(step.lr / (1 - std::pow(step.beta1, t))),
             .inverse_correction = static_cast<float>(1 / (1 - std::pow(step.beta2, t))),
             .eps = static_cast<float>(step.eps),
             .gradient_scale = static_cast<float>(step.gradient_scale)});
  // Written behind autograd's back: a graph that saved the old values must notice.
  torch::autograd::impl::bump_version(parameter);
}

double sum_of_squares(const Tensor& x) {
  if (!x.device().is_cpu() || x.scalar_type() == torch::kFloat64)
    return x.detach().to(torch::kFloat64).square().sum().item<double>();
  const Tensor values = x.detach().to(torch::kFloat32).contiguous();
  return sum_of_squares_cpu(values.data_ptr<float>(), values.numel());
}

}  // namespace megalodon::ops
