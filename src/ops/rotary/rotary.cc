// Checks, dispatch, autograd and registration of rotary.
#include "ops/rotary/rotary.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "base/check.h"
#include "ops/registration.h"
#include "ops/rotary/rotary_kernel.h"

namespace megalodon::ops {
namespace {

Tensor make_frequencies(int64_t head_dim, double base) {
  Tensor frequencies = torch::empty({head_dim / 2}, torch::kFloat32);
  auto* out = frequencies.data_ptr<float>();
  for (int64_t i = 0; i < head_dim / 2; ++i)
    out[i] = 1.0f / static_cast<float>(std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  return frequencies;
}

Tensor rotate(const Tensor& x, const Tensor& position, const Tensor& frequencies, bool inverse) {
  const Tensor from = x.contiguous();
  Tensor y = torch::empty(from.sizes(), from.options());
  run_kernel(from, MEGALODON_KERNELS(rotary),
             {.type = number_type(from),
              .x = from.data_ptr(),
              .position = position.data_ptr<int64_t>(),
              .frequencies = frequencies.data_ptr<float>(),
              .y = y.data_ptr(),
              .tokens = from.size(0) * from.size(1),
              .heads = from.size(2),
              .head_dim = from.size(3),
              .inverse = inverse});
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

Tensor checked_positions(const char* op, const Tensor& x_BLHK, const Tensor& position_BL) {
  check(x_BLHK.size(3) % 2 == 0, "[{}] head_dim must be even, got {}", op, x_BLHK.size(3));
  check(position_BL.sizes() == x_BLHK.sizes().slice(0, 2), "[{}] position must have shape {}x{}, got {}", op,
        x_BLHK.size(0), x_BLHK.size(1), fmt::join(position_BL.sizes(), "x"));
  check(position_BL.scalar_type() == torch::kInt64, "[{}] position must be int64, got {}", op,
        torch::toString(position_BL.scalar_type()));
  const Tensor dense_BL = position_BL.contiguous();
  if (dense_BL.is_cpu() && dense_BL.numel() > 0) {
    const auto* position = dense_BL.data_ptr<int64_t>();
    const int64_t least = *std::min_element(position, position + dense_BL.numel());
    check(least >= 0, "[{}] position must be >= 0, got {}", op, least);
  }
  return dense_BL.to(x_BLHK.device());
}

void check_input(const Tensor& x_BLHK) {
  check(x_BLHK.dim() == 4, "[rotary] x must be [B,L,H,K], got {}", fmt::join(x_BLHK.sizes(), "x"));
  check(x_BLHK.is_floating_point(), "[rotary] x must be floating point, got {}", torch::toString(x_BLHK.scalar_type()));
}

}  // namespace

Tensor rotary_frequencies(int64_t head_dim, double base, torch::Device device) {
  // Never taken down: at exit the GPU may be gone before.
  static std::mutex& mutex = *new std::mutex;
  static auto& made = *new std::map<std::tuple<int64_t, double, std::string>, Tensor>;
  const std::lock_guard<std::mutex> lock(mutex);
  Tensor& frequencies = made[{head_dim, base, device.str()}];
  if (!frequencies.defined()) {
    const c10::InferenceMode normal(false);  // an inference tensor could not be kept for a backward pass
    frequencies = make_frequencies(head_dim, base).to(device);
  }
  return frequencies;
}

Tensor rotary_positions(const char* op, const Tensor& x_BLHK, const Tensor& position_BL, double base) {
  check(base > 0, "[{}] base must be positive, got {}", op, base);
  return checked_positions(op, x_BLHK, position_BL);
}

Tensor rotary(const Tensor& x_BLHK, const Tensor& position_BL, double base) {
  check_input(x_BLHK);
  const Tensor position = rotary_positions("rotary", x_BLHK, position_BL, base);
  if (x_BLHK.numel() == 0) return x_BLHK;
  if (!use_kernel_of_any_type(x_BLHK)) return ref::rotary(x_BLHK, position, base);
  return RotaryFunction::apply(x_BLHK, position, rotary_frequencies(x_BLHK.size(3), base, x_BLHK.device()));
}

Tensor rotary_with_frequencies(const Tensor& x_BLHK, const Tensor& position_BL, const Tensor& frequency_K) {
  check_input(x_BLHK);
  const Tensor position = checked_positions("rotary", x_BLHK, position_BL);
  check(frequency_K.dim() == 1 && frequency_K.size(0) == x_BLHK.size(3) / 2, "[rotary] expected {} frequencies, got {}",
        x_BLHK.size(3) / 2, fmt::join(frequency_K.sizes(), "x"));
  if (x_BLHK.numel() == 0) return x_BLHK;
  if (!use_kernel_of_any_type(x_BLHK)) return ref::rotary_with_frequencies(x_BLHK, position, frequency_K);
  return RotaryFunction::apply(x_BLHK, position, frequency_K.to(x_BLHK.device(), torch::kFloat32).contiguous());
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def("rotary(Tensor x, Tensor position, float base=10000.0) -> Tensor", &rotary);
}

}  // namespace megalodon::ops
