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

void check_tensors(const AdamWTensors& tensors, const torch::Device& device) {
  const auto& [parameter, gradient, exp_avg, exp_avg_sq, decay] = tensors;
  const auto type = parameter.scalar_type();
  check(type == torch::kFloat32 || type == torch::kFloat64,
        "[adamw] parameters must be float32 (or float64) masters, got {}", toString(type));
  check(parameter.device() == device && gradient.device() == device,
        "[adamw] parameters and gradients must be on one device, got {}, {} and {}", device.str(),
        parameter.device().str(), gradient.device().str());
  check_updated(parameter, "parameter", parameter);
  check_updated(exp_avg, "exp_avg", parameter);
  check_updated(exp_avg_sq, "exp_avg_sq", parameter);
  check(gradient.sizes() == parameter.sizes() && gradient.is_floating_point(),
        "[adamw] the gradient must be floating point {} like the parameter, got {} {}", c10::str(parameter.sizes()),
        toString(gradient.scalar_type()), c10::str(gradient.sizes()));
}

void check_inputs(const std::vector<AdamWTensors>& list, const AdamWStep& step) {
  for (const AdamWTensors& tensors : list) check_tensors(tensors, list.front().parameter.device());
  check(step.step >= 1, "[adamw] step counts from 1, got {}", step.step);
  check(step.beta1 >= 0 && step.beta1 < 1 && step.beta2 >= 0 && step.beta2 < 1,
        "[adamw] betas must be in [0, 1), got {} and {}", step.beta1, step.beta2);
}

/// As the kernels read it.
Tensor float32_of(const Tensor& x) {
  return x.detach().to(torch::kFloat32).contiguous();
}

AdamWArgs arguments(const std::vector<AdamWArrays>& list, const AdamWStep& step) {
  const auto t = static_cast<double>(step.step);
  return {.list = list.data(),
          .count = static_cast<int64_t>(list.size()),
          .beta1 = static_cast<float>(step.beta1),
          .beta2 = static_cast<float>(step.beta2),
          .rest1 = static_cast<float>(1 - step.beta1),
          .rest2 = static_cast<float>(1 - step.beta2),
          .rate = static_cast<float>(step.lr / (1 - std::pow(step.beta1, t))),
          .inverse_correction = static_cast<float>(1 / (1 - std::pow(step.beta2, t))),
          .eps = static_cast<float>(step.eps),
          .gradient_scale = static_cast<float>(step.gradient_scale)};
}

void update_with_kernel(const std::vector<AdamWTensors>& list, const AdamWStep& step) {
  std::vector<Tensor> gradients;  // alive until the kernel has been queued
  std::vector<AdamWArrays> arrays;
  for (const auto& [parameter, gradient, exp_avg, exp_avg_sq, decay] : list) {
    gradients.push_back(float32_of(gradient));
    arrays.push_back({.parameter = parameter.data_ptr<float>(),
                      .gradient = gradients.back().data_ptr<float>(),
                      .exp_avg = exp_avg.data_ptr<float>(),
                      .exp_avg_sq = exp_avg_sq.data_ptr<float>(),
                      .size = parameter.numel(),
                      .shrink = static_cast<float>(1 - step.lr * decay)});
  }
  run_kernel(list.front().parameter, MEGALODON_KERNELS(adamw), arguments(arrays, step));
  // Written behind autograd's back: a graph that saved the old values must notice.
  for (const AdamWTensors& tensors : list) torch::autograd::impl::bump_version(tensors.parameter);
}

/// Of tensors on one device, float32 and contiguous.
double sum_of_squares_with_kernel(const std::vector<Tensor>& tensors) {
  std::vector<ConstArray> arrays;
  for (const Tensor& x : tensors) {
    check(x.device() == tensors.front().device(), "[sum_of_squares] tensors must be on one device, got {} and {}",
          tensors.front().device().str(), x.device().str());
    arrays.push_back({x.data_ptr<float>(), x.numel()});
  }
  const Tensor sum = torch::empty({}, tensors.front().options().dtype(torch::kFloat64));
  run_kernel(sum, MEGALODON_KERNELS(sum_of_squares),
             {.list = arrays.data(), .count = static_cast<int64_t>(arrays.size()), .sum = sum.data_ptr<double>()});
  return sum.item<double>();
}

}  // namespace

void adamw(const std::vector<AdamWTensors>& list, const AdamWStep& step) {
  check_inputs(list, step);
  std::vector<AdamWTensors> served;
  for (const AdamWTensors& tensors : list) {
    if (use_kernel(tensors.parameter))
      served.push_back(tensors);
    else
      ref::adamw(tensors, step);
  }
  if (!served.empty()) update_with_kernel(served, step);
}

double sum_of_squares(torch::TensorList tensors) {
  double total = 0;
  std::vector<Tensor> served;
  for (const Tensor& x : tensors) {
    if ((x.is_cpu() || has_kernels(x)) && x.scalar_type() != torch::kFloat64)
      served.push_back(float32_of(x));
    else
      total += x.detach().to(torch::kFloat64).square().sum().item<double>();
  }
  return served.empty() ? total : total + sum_of_squares_with_kernel(served);
}

}  // namespace megalodon::ops
