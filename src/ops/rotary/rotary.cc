// Checks, dispatch, autograd and registration of rotary.
#include "ops/rotary/rotary.h"

#include <cmath>

#include "base/check.h"
#include "ops/registration.h"
#include "ops/rotary/rotary_kernel.h"

namespace megalodon::ops {
namespace {

void check_inputs(const Tensor& x, const Tensor& position, double base) {
  check(x.dim() == 4, "[rotary] x must be [B,L,H,K], got {}", fmt::join(x.sizes(), "x"));
  check(x.size(3) % 2 == 0, "[rotary] head_dim must be even, got {}", x.size(3));
  check(x.is_floating_point(), "[rotary] x must be floating point, got {}", torch::toString(x.scalar_type()));
  check(position.sizes() == x.sizes().slice(0, 2), "[rotary] position must have shape {}x{}, got {}", x.size(0),
        x.size(1), fmt::join(position.sizes(), "x"));
  check(position.scalar_type() == torch::kInt64, "[rotary] position must be int64, got {}",
        torch::toString(position.scalar_type()));
  check(base > 0, "[rotary] base must be positive, got {}", base);
}

Tensor rotate(const Tensor& x, const Tensor& position, const Tensor& frequencies, bool inverse) {
  const Tensor from = x.contiguous();
  Tensor y = torch::empty(from.sizes(), from.options());
  rotary_cpu({from.data_ptr<float>(), position.data_ptr<int64_t>(), frequencies.data_ptr<float>(), y.data_ptr<float>(),
              from.size(0) * from.size(1), from.size(2), from.size(3), inverse});
  return y;
}

class RotaryFunction : public torch::autograd::Function<RotaryFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Tensor& position,
                        const Tensor& frequencies) {
    ctx->save_for_backward({position, frequencies});
    return rotate(x, position, frequencies, /*inverse=*/false);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivatives("rotary");
    const auto saved = ctx->get_saved_variables();
    return {rotate(grads[0], saved[0], saved[1], /*inverse=*/true), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor rotary_frequencies(int64_t head_dim, double base) {
  Tensor frequencies = torch::empty({head_dim / 2}, torch::kFloat32);
  auto* out = frequencies.data_ptr<float>();
  for (int64_t i = 0; i < head_dim / 2; ++i)
    out[i] = 1.0f / static_cast<float>(std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  return frequencies;
}

Tensor rotary(const Tensor& x_BLHK, const Tensor& position_BL, double base) {
  check_inputs(x_BLHK, position_BL, base);
  if (x_BLHK.numel() == 0) return x_BLHK;
  if (x_BLHK.scalar_type() == torch::kBFloat16)
    return rotary(x_BLHK.to(torch::kFloat32), position_BL, base).to(torch::kBFloat16);
  if (!use_cpu_kernel(x_BLHK)) return ref::rotary(x_BLHK, position_BL, base);
  const Tensor position = position_BL.to(torch::kCPU).contiguous();
  check(position.min().item<int64_t>() >= 0, "[rotary] position must be >= 0, got {}", position.min().item<int64_t>());
  return RotaryFunction::apply(x_BLHK, position, rotary_frequencies(x_BLHK.size(3), base));
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def("rotary(Tensor x, Tensor position, float base=10000.0) -> Tensor", &rotary);
}

}  // namespace megalodon::ops
