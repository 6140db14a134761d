#include "ops/gated_silu/gated_silu.h"

#include "base/check.h"
#include "ops/gated_silu/gated_silu_kernel.h"
#include "ops/registration.h"

namespace megalodon::ops {
namespace {

void* numbers_or_null(const Tensor& x) {
  return x.defined() ? x.data_ptr() : nullptr;
}
Tensor contiguous_or_undefined(const Tensor& x) {
  return x.defined() ? x.contiguous() : x;
}

class GatedSiluFunction : public torch::autograd::Function<GatedSiluFunction> {
 public:
  // b is optional because autograd refuses undefined tensors among a function's inputs.
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& a, const OptionalTensor& optional_b) {
    const Tensor b = or_undefined(optional_b);
    const Tensor a_dense = a.contiguous(), b_dense = contiguous_or_undefined(b);
    Tensor h = torch::empty_like(a_dense);
    run_kernel(h, MEGALODON_KERNELS(gated_silu_forward),
               {.a_type = number_type(a),
                .b_type = number_type(b.defined() ? b : a),
                .a = a_dense.data_ptr(),
                .b = numbers_or_null(b_dense),
                .h = h.data_ptr(),
                .size = h.numel()});
    context->save_for_backward({a, b});
    return h;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    refuse_second_derivatives("gated_silu");
    const auto saved = context->get_saved_variables();
    const Tensor a = saved[0].contiguous(), b = contiguous_or_undefined(saved[1]), dh = gradients[0].contiguous();
    Tensor da = torch::empty_like(a), db = b.defined() ? torch::empty_like(b) : Tensor();
    run_kernel(a, MEGALODON_KERNELS(gated_silu_backward),
               {.a_type = number_type(a),
                .b_type = number_type(b.defined() ? b : a),
                .a = a.data_ptr(),
                .b = numbers_or_null(b),
                .dh = dh.data_ptr(),
                .da = da.data_ptr(),
                .db = numbers_or_null(db),
                .size = a.numel()});
    return {da, db};
  }
};

}  // namespace

Tensor gated_silu(const Tensor& a, const Tensor& b) {
  check(a.is_floating_point(), "[gated_silu] a must be floating point, got {}", toString(a.scalar_type()));
  if (b.defined()) {
    const bool mixed = a.scalar_type() == torch::kBFloat16 && b.scalar_type() == torch::kFloat32;
    check(b.sizes() == a.sizes() && (b.scalar_type() == a.scalar_type() || mixed) && b.device() == a.device(),
          "[gated_silu] b must be {} {} on {} like a, got {} {} on {}", toString(a.scalar_type()), c10::str(a.sizes()),
          a.device().str(), toString(b.scalar_type()), c10::str(b.sizes()), b.device().str());
  }
  const bool kernel = use_kernel_of_any_type(a);
  return kernel ? GatedSiluFunction::apply(a, maybe(b)) : ref::gated_silu(a, b);
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def("gated_silu(Tensor a, Tensor? b=None) -> Tensor",
        [](const Tensor& a, const OptionalTensor& b) { return gated_silu(a, or_undefined(b)); });
}

}  // namespace megalodon::ops
