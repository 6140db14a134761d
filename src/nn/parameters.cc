#include "nn/parameters.h"

#include <memory>

namespace megalodon::nn {

Tensor register_at(torch::nn::Module& module, const std::string& path, torch::IntArrayRef shape) {
  const size_t dot = path.find('.');
  if (dot == std::string::npos) return module.register_parameter(path, torch::empty(shape, torch::kFloat32));
  const std::string head = path.substr(0, dot);
  const auto children = module.named_children();
  const auto child =
      children.contains(head) ? children[head] : module.register_module(head, std::make_shared<torch::nn::Module>());
  return register_at(*child, path.substr(dot + 1), shape);
}

int64_t count_parameters(const torch::nn::Module& module) {
  int64_t count = 0;
  for (const Tensor& parameter : module.parameters()) count += parameter.numel();
  return count;
}

Affine::Affine(torch::nn::Module& module, const std::string& path, int64_t dim, bool with_bias)
    : weight(register_at(module, path + ".weight", {dim})) {
  if (with_bias) bias = register_at(module, path + ".bias", {dim});
}

void Affine::init_weights() const {
  torch::NoGradGuard no_grad;
  for (const Tensor& zero : {weight, bias})
    if (zero.defined()) zero.zero_();
}

}  // namespace megalodon::nn
