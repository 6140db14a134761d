#include "nn/linear.h"

#include "base/check.h"
#include "ops/bfloat16_product.h"
#include "ops/registration.h"

namespace megalodon::nn {
namespace {

using ops::bfloat16_product;

/// Keeps x and the weight as the products read them: in half the memory of float32.
class Bfloat16Linear : public torch::autograd::Function<Bfloat16Linear> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_TI, const Tensor& w_OI) {
    const Tensor x = x_TI.to(torch::kBFloat16), w = w_OI.to(torch::kBFloat16);
    context->save_for_backward({x, w});
    return bfloat16_product(x, w.t());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    ops::refuse_second_derivatives("linear");
    const auto saved = context->get_saved_variables();
    const Tensor &x_TI = saved[0], &w_OI = saved[1], dy_TO = gradients[0].to(torch::kBFloat16);
    Tensor dx_TI, dw_OI;
    if (context->needs_input_grad(0)) dx_TI = bfloat16_product(dy_TO, w_OI);
    if (context->needs_input_grad(1)) dw_OI = bfloat16_product(dy_TO.t(), x_TI);
    return {dx_TI, dw_OI};
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Precision precision) {
  if (precision == Precision::kFloat32) return torch::linear(x, weight, bias);
  check(x.scalar_type() == torch::kFloat32 && weight.scalar_type() == torch::kFloat32,
        "[linear] products in bfloat16 are made from float32, got x {} and weight {}", toString(x.scalar_type()),
        toString(weight.scalar_type()));
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const Tensor y = Bfloat16Linear::apply(x.reshape({-1, weight.size(1)}), weight).view(shape);
  return bias.defined() ? y + bias : y;
}

}  // namespace megalodon::nn
