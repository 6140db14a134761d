// rms_norm and layer_norm: checks, choice of kernel or reference, gradient, registration.
#include "ops/row_norm/row_norm.h"

#include "ops/registration.h"
#include "ops/row_norm/norm_checks.h"
#include "ops/row_norm/row_norm_kernel.h"

namespace megalodon::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

RowNormArgs row_norm_args(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, bool centered,
                          const Tensor& y) {
  RowNormArgs args{};
  args.size = x.size(-1);
  args.rows = args.size == 0 ? 0 : x.numel() / args.size;
  args.centered = centered;
  args.eps = eps;
  args.x_type = number_type(x);
  args.y_type = number_type(y);
  args.x = x.data_ptr();
  args.weight = data_or_null<float>(weight);
  args.bias = data_or_null<float>(bias);
  return args;
}

class RowNormFunction : public torch::autograd::Function<RowNormFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& weight_or_none,
                        const OptionalTensor& bias_or_none, double eps, bool centered, torch::ScalarType y_type) {
    const Tensor weight = or_undefined(weight_or_none), bias = or_undefined(bias_or_none);
    ctx->save_for_backward({x, weight, bias});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["centered"] = centered;
    const Tensor y = torch::empty_like(x, x.options().dtype(y_type));
    run_kernel(x, MEGALODON_KERNELS(row_norm_forward), row_norm_args(x, weight, bias, eps, centered, y),
               {y.data_ptr()});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    refuse_second_derivatives("row_norm");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], dy = gradients[0].contiguous();
    const auto like = [](const Tensor& t) { return t.defined() ? torch::empty_like(t) : Tensor(); };
    Tensor dx = torch::empty_like(x), dweight = like(weight), dbias = like(bias);
    RowNormGradients out{};
    out.dy = dy.data_ptr();
    out.dx = dx.data_ptr();
    out.dweight = dweight.defined() ? dweight.data_ptr<float>() : nullptr;
    out.dbias = dbias.defined() ? dbias.data_ptr<float>() : nullptr;
    run_kernel(
        x, MEGALODON_KERNELS(row_norm_backward),
        row_norm_args(x, weight, bias, ctx->saved_data["eps"].toDouble(), ctx->saved_data["centered"].toBool(), dy),
        out);
    return {dx, dweight, dbias, {}, {}, {}};
  }
};

Tensor row_norm(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, bool centered,
                torch::ScalarType y_type) {
  check_norm_input(op, x, -1, eps);
  check_norm_parameter(op, "weight", weight, x);
  check_norm_parameter(op, "bias", bias, x);
  // The GPU's kernels read bfloat16, the CPU's do not.
  const bool reads_any_type = x.is_cuda() && use_kernel_of_any_type(x);
  if (is_reduced(x) && !reads_any_type) return row_norm(op, x.to(torch::kFloat32), weight, bias, eps, centered, y_type);
  if (!reads_any_type && !use_kernel(x)) {
    const Tensor y = centered ? ref::layer_norm(x, weight, bias, eps) : ref::rms_norm(x, weight, eps);
    return y.to(y_type);
  }
  if (y_type != torch::kFloat32 && y_type != torch::kBFloat16)
    return row_norm(op, x, weight, bias, eps, centered, torch::kFloat32).to(y_type);
  return RowNormFunction::apply(x.contiguous(), maybe(as_float32(weight)), maybe(as_float32(bias)), eps, centered,
                                y_type);
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, std::optional<torch::ScalarType> y_type) {
  return row_norm("rms_norm", x, weight, {}, eps, false, y_type.value_or(x.scalar_type()));
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  std::optional<torch::ScalarType> y_type) {
  return row_norm("layer_norm", x, weight, bias, eps, true, y_type.value_or(x.scalar_type()));
}

}  // namespace megalodon::ops

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  using namespace megalodon;
  m.def("rms_norm(Tensor x, Tensor? weight=None, float eps=1e-5) -> Tensor",
        [](const Tensor& x, const OptionalTensor& weight, double eps) {
          return ops::rms_norm(x, or_undefined(weight), eps);
        });
  m.def("layer_norm(Tensor x, Tensor? weight=None, Tensor? bias=None, float eps=1e-5) -> Tensor",
        [](const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
          return ops::layer_norm(x, or_undefined(weight), or_undefined(bias), eps);
        });
}
