// The specification of rotary as tensor operations, for any device and dtype.
#include "ops/rotary/rotary.h"

namespace megalodon::ops::ref {

Tensor rotary(const Tensor& x_BLHK, const Tensor& position_BL, double base) {
  const int64_t K = x_BLHK.size(3);
  const bool wide = x_BLHK.scalar_type() == torch::kFloat64;
  const Tensor frequencies =
      wide ? torch::pow(base, torch::arange(0, K, 2, x_BLHK.options()) * (-1.0 / static_cast<double>(K)))
           : rotary_frequencies(K, base, x_BLHK.device());
  return rotary_with_frequencies(x_BLHK, position_BL, frequencies);
}

Tensor rotary_with_frequencies(const Tensor& x_BLHK, const Tensor& position_BL, const Tensor& frequency_K) {
  const int64_t K = x_BLHK.size(3);
  const auto dtype = x_BLHK.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const Tensor angle = position_BL.to(x_BLHK.device(), dtype).unsqueeze(-1) * frequency_K.to(x_BLHK.device(), dtype);
  const Tensor cos = torch::cos(angle).unsqueeze(2), sin = torch::sin(angle).unsqueeze(2);  // [B,L,1,K/2]
  const Tensor pair = x_BLHK.to(dtype).unflatten(-1, {K / 2, 2});
  const Tensor even = pair.select(-1, 0), odd = pair.select(-1, 1);
  return torch::stack({even * cos - odd * sin, even * sin + odd * cos}, -1).flatten(-2).to(x_BLHK.scalar_type());
}

}  // namespace megalodon::ops::ref
