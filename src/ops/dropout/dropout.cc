#include "ops/dropout/dropout.h"

#include "base/check.h"
#include "ops/dropout/dropout_kernel.h"
#include "ops/registration.h"

namespace megalodon::ops {
namespace {

Tensor apply_mask(const Tensor& x, double p, uint64_t key) {
  const Tensor input = x.contiguous();
  Tensor y = torch::empty_like(input);
  run_kernel(input, MEGALODON_KERNELS(dropout),
             {.type = number_type(input),
              .x = input.data_ptr(),
              .y = y.data_ptr(),
              .size = input.numel(),
              .p = p,
              .key = key});
  return y;
}

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, double p, int64_t key) {
    context->saved_data["p"] = p;
    context->saved_data["key"] = key;
    return apply_mask(x, p, static_cast<uint64_t>(key));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    refuse_second_derivatives("dropout");
    const double p = context->saved_data["p"].toDouble();
    const auto key = static_cast<uint64_t>(context->saved_data["key"].toInt());
    return {apply_mask(gradients[0], p, key), Tensor(), Tensor()};
  }
};

/// The dtype that kernels read and write x in: bfloat16 as it is, else float32.
torch::ScalarType kernel_type(const Tensor& x) {
  return x.scalar_type() == torch::kBFloat16 ? torch::kBFloat16 : torch::kFloat32;
}

}  // namespace

Tensor dropout(const Tensor& x, double p, uint64_t key) {
  check(p >= 0 && p < 1, "[dropout] p must be in [0, 1), got {}", p);
  check(x.is_floating_point(), "[dropout] x must be floating point, got {}", toString(x.scalar_type()));
  if (p == 0) return x;
  if (!has_kernels(x) || x.scalar_type() == torch::kFloat64) return ref::dropout(x, p, key);
  return DropoutFunction::apply(x.to(kernel_type(x)), p, static_cast<int64_t>(key)).to(x.scalar_type());
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def("dropout(Tensor x, float p, int key) -> Tensor", [](const Tensor& x, double p, int64_t key) {
    return dropout(x, p, static_cast<uint64_t>(key));  // schemas know no unsigned integers; the bits are the key
  });
}

}  // namespace megalodon::ops
