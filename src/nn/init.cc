#include "nn/init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <cmath>

#include "base/check.h"

namespace megalodon::nn {
namespace {

at::Generator generator(uint64_t key) {
  return at::make_generator<at::CPUGeneratorImpl>(key);
}

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

/// Fills the parameter by draw(tensor on the CPU): the same numbers on every device.
template <class Draw>
void fill(const Tensor& parameter, const Draw& draw) {
  torch::NoGradGuard no_grad;
  if (parameter.is_cpu()) return draw(parameter);
  const Tensor drawn = torch::empty(parameter.sizes(), parameter.options().device(torch::kCPU));
  draw(drawn);
  Tensor(parameter).copy_(drawn);
}

}  // namespace

void normal(const Tensor& parameter, double std, uint64_t key) {
  fill(parameter, [&](const Tensor& t) { t.normal_(0, std, generator(key)); });
}

void uniform(const Tensor& parameter, double low, double high, uint64_t key) {
  fill(parameter, [&](const Tensor& t) { t.uniform_(low, high, generator(key)); });
}

void truncated_normal(const Tensor& parameter, double std, double limit, uint64_t key) {
  // Inverse transform: uniform in the cut distribution's range of probabilities, mapped back by the error function.
  const double tail = 2 * normal_cdf(-limit / std);
  fill(parameter, [&](const Tensor& t) {
    t.uniform_(tail - 1, 1 - tail, generator(key)).erfinv_().mul_(std * std::sqrt(2.0)).clamp_(-limit, limit);
  });
}

void init_linear(const Tensor& weight, const std::string& mode, uint64_t key) {
  const auto out = static_cast<double>(weight.size(0)), in = static_cast<double>(weight.size(1));
  if (mode == "he") {
    normal(weight, std::sqrt(1 / (3 * in)), key);
  } else if (mode == "bert") {
    normal(weight, 0.02, key);
  } else if (mode == "gaussian") {
    truncated_normal(weight, 1, 3, key);
  } else if (mode == "xavier" || mode == "none") {
    const double bound = mode == "xavier" ? std::sqrt(6 / (in + out)) : 1 / std::sqrt(in);
    uniform(weight, -bound, bound, key);
  } else {
    fail_usage("[model.init_mode] expected {}, got \"{}\"", fmt::join(init_modes(), ", "), mode);
  }
}

const std::vector<std::string>& init_modes() {
  static const std::vector<std::string> modes = {"he", "bert", "xavier", "gaussian", "none"};
  return modes;
}

void embedding(const Tensor& weight, uint64_t key) {
  const double std = 1 / std::sqrt(static_cast<double>(weight.size(1)));
  truncated_normal(weight, std, 3 * std, key);
}

}  // namespace megalodon::nn
