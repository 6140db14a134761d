// Checks, dispatch, autograd and registration of query_key.
#include "ops/query_key/query_key.h"

#include "ops/query_key/query_key_kernel.h"
#include "ops/registration.h"
#include "ops/rotary/rotary.h"
#include "ops/row_norm/norm_checks.h"

namespace megalodon::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_inputs(const Tensor& z, const Tensor& scale, const Tensor& shift, double eps) {
  check_norm_input("query_key", z, 4, eps);
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"scale", scale}, {"shift", shift}}) {
    check(t.defined() && t.is_floating_point(), "[query_key] {} must be a tensor of floating point numbers, got {}",
          name, t.defined() ? describe(t) : "nothing");
    check_norm_argument("query_key", name, t, {2, z.size(2) * z.size(3)}, z);
  }
}

/// All tensors in one piece.
QueryKeyArgs query_key_args(const Tensor& z, const Tensor& scale, const Tensor& shift, const Tensor& position,
                            const Tensor& frequencies, double eps, NumberType y_type) {
  return {.tokens = z.size(0) * z.size(1),
          .heads = z.size(2),
          .head_dim = z.size(3),
          .eps = eps,
          .z_type = number_type(z),
          .y_type = y_type,
          .z = z.data_ptr(),
          .scale = scale.data_ptr<float>(),
          .shift = shift.data_ptr<float>(),
          .position = position.data_ptr<int64_t>(),
          .frequencies = frequencies.data_ptr<float>()};
}

class QueryKeyFunction : public torch::autograd::Function<QueryKeyFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& z, const Tensor& scale, const Tensor& shift,
                               const Tensor& position, const Tensor& frequencies, double eps,
                               torch::ScalarType y_type) {
    ctx->save_for_backward({z, scale, shift, position, frequencies});
    ctx->saved_data["eps"] = eps;
    const Tensor q = torch::empty(z.sizes(), z.options().dtype(y_type)), k = torch::empty_like(q);
    run_kernel(z, MEGALODON_KERNELS(query_key_forward),
               query_key_args(z, scale, shift, position, frequencies, eps, number_type(q)),
               {q.data_ptr(), k.data_ptr()});
    return {q, k};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    refuse_second_derivatives("query_key");
    const auto saved = ctx->get_saved_variables();
    const Tensor &z = saved[0], &scale = saved[1], &shift = saved[2];
    const Tensor dq = gradients[0].contiguous(), dk = gradients[1].contiguous();
    const Tensor dz = torch::empty_like(z), dscale = torch::empty_like(scale), dshift = torch::empty_like(shift);
    run_kernel(z, MEGALODON_KERNELS(query_key_backward),
               query_key_args(z, scale, shift, saved[3], saved[4], ctx->saved_data["eps"].toDouble(), number_type(dq)),
               {dq.data_ptr(), dk.data_ptr(), dz.data_ptr(), dscale.data_ptr<float>(), dshift.data_ptr<float>()});
    return {dz, dscale, dshift, {}, {}, {}, {}};
  }
};

}  // namespace

QueryKey query_key(const Tensor& z_BLHK, const Tensor& scale_2Z, const Tensor& shift_2Z, const Tensor& position_BL,
                   double eps, double base, std::optional<torch::ScalarType> y_type) {
  check_inputs(z_BLHK, scale_2Z, shift_2Z, eps);
  const Tensor position = rotary_positions("query_key", z_BLHK, position_BL, base);
  const torch::ScalarType type = y_type.value_or(z_BLHK.scalar_type());
  if (z_BLHK.numel() == 0 || !use_kernel_of_any_type(z_BLHK)) {
    const Tensor z = is_reduced(z_BLHK) ? z_BLHK.to(torch::kFloat32) : z_BLHK;
    const auto [q, k] = ref::query_key(z, scale_2Z, shift_2Z, position, eps, base);
    return {q.to(type), k.to(type)};
  }
  const bool written = type == torch::kFloat32 || type == torch::kBFloat16;
  const auto weight = [](const Tensor& t) { return t.to(torch::kFloat32).contiguous(); };
  const auto y = QueryKeyFunction::apply(z_BLHK.contiguous(), weight(scale_2Z), weight(shift_2Z), position,
                                         rotary_frequencies(z_BLHK.size(3), base, z_BLHK.device()), eps,
                                         written ? type : torch::kFloat32);
  return {y[0].to(type), y[1].to(type)};
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def(
      "query_key(Tensor z, Tensor scale, Tensor shift, Tensor position, float eps=1e-5, float base=10000.0) -> "
      "(Tensor, Tensor)",
      [](const Tensor& z, const Tensor& scale, const Tensor& shift, const Tensor& position, double eps, double base) {
        const auto [q, k] = query_key(z, scale, shift, position, eps, base);
        return std::make_tuple(q, k);
      });
}

}  // namespace megalodon::ops
