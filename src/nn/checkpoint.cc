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
                        const c10::intrusive_ptr<torch::CustomClassHolder>& recipe) {
    context->save_for_backward({x});
    context->saved_data["recipe"] = torch::IValue::make_capsule(recipe);
    return static_cast<Recipe&>(*recipe).run(x);  // no graph is recorded inside forward()
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto recipe = context->saved_data["recipe"].toCapsule();
    at::AutoGradMode record(true);
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    torch::autograd::backward({static_cast<Recipe&>(*recipe).run(x)}, {gradients[0]});
    return {x.grad(), Tensor()};
  }
};

}  // namespace

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  return CheckpointFunction::apply(x, c10::intrusive_ptr<torch::CustomClassHolder>(c10::make_intrusive<Recipe>(f)));
}

}  // namespace megalodon::nn
