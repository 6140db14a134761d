// The specification: the tensor library's linear layer, of inputs rounded to bfloat16 where that is asked for. Also
// what serves float64 and other devices.
#include "ops/linear/linear.h"

namespace megalodon::ops::ref {

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Precision precision) {
  if (precision == Precision::kFloat32) return torch::linear(x, weight, bias);
  // On the CPU products of bfloat16 numbers are made in float32: libtorch's own would round partial sums.
  const auto type = x.device().is_cpu() ? torch::kFloat32 : torch::kBFloat16;
  const auto rounded = [&](const Tensor& t) { return t.to(torch::kBFloat16).to(type); };
  const Tensor y = torch::linear(rounded(x), rounded(weight)).to(torch::kFloat32);
  return bias.defined() ? y + bias : y;
}

}  // namespace megalodon::ops::ref
