#include "nn/checkpoint.h"

namespace megalodon::nn {
namespace {

struct Recipe : torch::CustomClassHolder {
  explicit Recipe(std::function<Tensor(const Tensor&)> run) : run(std::move(run)) {}
  std::function<Tensor(const Tensor&)> run;
};

class CheckpointFunction : public torch::autograd::Function<CheckpointFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const std::function<Tensor(const Tensor&)>& first,
                        const c10::intrusive_ptr<torch::CustomClassHolder>& again) {
    context->save_for_backward({x});
    context->saved_data["again"] = torch::IValue::make_capsule(again);
    // Recorded, and let go of at once: products that are not going to be differentiated may round elsewhere, and then
    // the second time would not give what the first gave.
    at::AutoGradMode record(true);
    return first(x.detach().requires_grad_()).detach();
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto again = context->saved_data["again"].toCapsule();
    at::AutoGradMode record(true);
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    torch::autograd::backward({static_cast<Recipe&>(*again).run(x)}, {gradients[0]});
    return {x.grad(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& first, std::function<Tensor(const Tensor&)> again,
                  const Tensor& x) {
  const c10::intrusive_ptr<torch::CustomClassHolder> recipe = c10::make_intrusive<Recipe>(std::move(again));
  return CheckpointFunction::apply(x, first, recipe);
}

}  // namespace megalodon::nn
