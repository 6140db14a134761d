// timestep_norm: checks, choice of kernel or reference, gradient, registration.
#include "ops/timestep_norm/timestep_norm.h"

#include <algorithm>

#include "ops/registration.h"
#include "ops/row_norm/norm_checks.h"
#include "ops/timestep_norm/timestep_norm_kernel.h"

namespace megalodon::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kTimestepNorm = "timestep_norm";

/// Everything the kernel reads, in the types and layout it reads. State, mask and starts may be undefined.
struct Operands {
  Tensor x_BLD, weight_D, bias_D, mean0_BG, var0_BG, count0_B, mask_BL, starts_BL;

  variable_list list() const { return {x_BLD, weight_D, bias_D, mean0_BG, var0_BG, count0_B, mask_BL, starts_BL}; }
  static Operands from(const variable_list& v) { return {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]}; }
  bool need_gradient() const {
    const auto needs = [](const Tensor& t) { return t.defined() && t.requires_grad(); };
    return torch::GradMode::is_enabled() &&
           (needs(x_BLD) || needs(weight_D) || needs(bias_D) || needs(mean0_BG) || needs(var0_BG));
  }
};

TimestepNormArgs timestep_norm_args(const Operands& in, int64_t groups, double eps, const Tensor& y_BLD) {
  TimestepNormArgs args{};
  args.B = in.x_BLD.size(0), args.L = in.x_BLD.size(1), args.G = groups, args.K = in.x_BLD.size(2) / groups;
  args.eps = eps;
  args.x_type = number_type(in.x_BLD);
  args.y_type = number_type(y_BLD);
  args.x = in.x_BLD.data_ptr();
  args.weight = data_or_null<float>(in.weight_D);
  args.bias = data_or_null<float>(in.bias_D);
  args.mask = data_or_null<bool>(in.mask_BL);
  args.starts = data_or_null<bool>(in.starts_BL);
  args.count0 = data_or_null<int64_t>(in.count0_B);
  args.mean0 = data_or_null<double>(in.mean0_BG);
  args.var0 = data_or_null<double>(in.var0_BG);
  return args;
}

/// y, count, mean, var; for a backward pass also mean, rstd and (undefined on the CPU) count per step.
variable_list run_forward(const Operands& in, int64_t groups, double eps, torch::ScalarType y_type, bool for_backward) {
  const auto options = in.x_BLD.options().requires_grad(false);
  const auto float64 = options.dtype(torch::kFloat64), int64 = options.dtype(torch::kInt64);
  const Tensor y_BLD = torch::empty_like(in.x_BLD, options.dtype(y_type));
  const TimestepNormArgs args = timestep_norm_args(in, groups, eps, y_BLD);
  variable_list out = {y_BLD, torch::empty({args.B}, int64), torch::empty({args.B, args.G}, float64),
                       torch::empty({args.B, args.G}, float64)};
  TimestepNormResult result{};
  result.y = out[0].data_ptr();
  result.count = out[1].data_ptr<int64_t>();
  result.mean = out[2].data_ptr<double>();
  result.var = out[3].data_ptr<double>();
  if (for_backward) {
    out.push_back(torch::empty({args.B, args.L, args.G}, float64));
    out.push_back(torch::empty({args.B, args.L, args.G}, options.dtype(torch::kFloat32)));
    out.push_back(in.x_BLD.is_cpu() ? Tensor() : torch::empty({args.B, args.L}, int64));
    result.mean_BLG = out[4].data_ptr<double>();
    result.rstd_BLG = out[5].data_ptr<float>();
    result.count_BL = out[6].defined() ? out[6].data_ptr<int64_t>() : nullptr;
  }
  run_kernel(in.x_BLD, MEGALODON_KERNELS(timestep_norm_forward), args, result);
  return out;
}

class TimestepNormFunction : public torch::autograd::Function<TimestepNormFunction> {
 public:
  // Undefined tensors can only be passed as empty optionals.
  static variable_list forward(AutogradContext* ctx, const Tensor& x_BLD, const OptionalTensor& weight_D,
                               const OptionalTensor& bias_D, const OptionalTensor& mean0_BG,
                               const OptionalTensor& var0_BG, const OptionalTensor& count0_B,
                               const OptionalTensor& mask_BL, const OptionalTensor& starts_BL, int64_t groups,
                               double eps, torch::ScalarType y_type) {
    const Operands in{x_BLD,
                      or_undefined(weight_D),
                      or_undefined(bias_D),
                      or_undefined(mean0_BG),
                      or_undefined(var0_BG),
                      or_undefined(count0_B),
                      or_undefined(mask_BL),
                      or_undefined(starts_BL)};
    variable_list out = run_forward(in, groups, eps, y_type, /*for_backward=*/true);
    variable_list saved = in.list();
    saved.insert(saved.end(), {out[4], out[5], out[6]});
    ctx->save_for_backward(saved);
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["eps"] = eps;
    out.resize(4);
    ctx->mark_non_differentiable({out[1]});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    refuse_second_derivatives("timestep_norm");
    const variable_list saved = ctx->get_saved_variables();
    const Operands in = Operands::from(saved);
    const Tensor dy_BLD = gradients[0].contiguous();
    const TimestepNormArgs args =
        timestep_norm_args(in, ctx->saved_data["groups"].toInt(), ctx->saved_data["eps"].toDouble(), dy_BLD);
    const Tensor dmean_BG = gradients[2].contiguous(), dvar_BG = gradients[3].contiguous();
    const auto like = [](const Tensor& t) { return t.defined() ? torch::empty_like(t) : Tensor(); };
    const Tensor dx_BLD = torch::empty_like(in.x_BLD), dweight_D = like(in.weight_D), dbias_D = like(in.bias_D);
    const Tensor dmean0_BG = torch::empty_like(dmean_BG), dvar0_BG = torch::empty_like(dvar_BG);
    TimestepNormGradients out{};
    out.mean_BLG = saved[8].data_ptr<double>();
    out.rstd_BLG = saved[9].data_ptr<float>();
    out.count_BL = data_or_null<int64_t>(saved[10]);
    out.dy = dy_BLD.data_ptr();
    out.dmean = dmean_BG.data_ptr<double>();
    out.dvar = dvar_BG.data_ptr<double>();
    out.dx = dx_BLD.data_ptr();
    out.dweight = dweight_D.defined() ? dweight_D.data_ptr<float>() : nullptr;
    out.dbias = dbias_D.defined() ? dbias_D.data_ptr<float>() : nullptr;
    out.dmean0 = dmean0_BG.data_ptr<double>();
    out.dvar0 = dvar0_BG.data_ptr<double>();
    run_kernel(in.x_BLD, MEGALODON_KERNELS(timestep_norm_backward), args, out);
    const bool state = in.count0_B.defined();
    return {dx_BLD, dweight_D, dbias_D, state ? dmean0_BG : Tensor(), state ? dvar0_BG : Tensor(), {}, {}, {},
            {},     {},        {}};
  }
};

void check_state(const TimestepNormState& state, const Tensor& x_BLD, int64_t groups) {
  if (!state.defined() && !state.mean_BG.defined() && !state.var_BG.defined()) return;
  const int64_t B = x_BLD.size(0);
  check(state.count_B.defined() && state.mean_BG.defined() && state.var_BG.defined(),
        "[{}] count, mean and var must be given together, or none for a fresh start", kTimestepNorm);
  check_norm_argument(kTimestepNorm, "count", state.count_B, {B}, x_BLD);
  check_norm_argument(kTimestepNorm, "mean", state.mean_BG, {B, groups}, x_BLD);
  check_norm_argument(kTimestepNorm, "var", state.var_BG, {B, groups}, x_BLD);
  check(state.count_B.scalar_type() == torch::kInt64, "[{}] count must be int64, got {}", kTimestepNorm,
        describe(state.count_B));
  for (const Tensor& t : {state.mean_BG, state.var_BG})
    check(t.scalar_type() == torch::kFloat64 || t.scalar_type() == torch::kFloat32,
          "[{}] mean and var must be float64 or float32 (less would lose the statistics), got {}", kTimestepNorm,
          describe(t));
  if (!state.count_B.device().is_cpu()) return;  // reading it would stall the device
  const Tensor count_B = state.count_B.contiguous();
  const int64_t* counts = count_B.data_ptr<int64_t>();
  for (int64_t b = 0; b < B; ++b)
    check(counts[b] >= 0, "[{}] count must not be negative, got {} for sequence {}", kTimestepNorm, counts[b], b);
}

void check_arguments(const Tensor& x_BLD, const Tensor& weight_D, const Tensor& bias_D,
                     const TimestepNormOptions& options) {
  check_norm_input(kTimestepNorm, x_BLD, 3, options.eps);
  check_norm_groups(kTimestepNorm, x_BLD, options.groups);
  check_norm_parameter(kTimestepNorm, "weight", weight_D, x_BLD);
  check_norm_parameter(kTimestepNorm, "bias", bias_D, x_BLD);
  check_state(options.state, x_BLD, options.groups);
  check_norm_flags(kTimestepNorm, "padding_mask", options.padding_mask_BL, x_BLD);
  check_norm_flags(kTimestepNorm, "starts", options.starts_BL, x_BLD);
  check(x_BLD.size(1) > 0, "[{}] x must have one step or more, got {}", kTimestepNorm, describe(x_BLD));
}

/// State, mask and starts are undefined or contiguous.
Operands operands(const Tensor& x_BLD, const Tensor& weight_D, const Tensor& bias_D,
                  const TimestepNormOptions& options) {
  const auto dense = [](const Tensor& t) { return t.defined() ? t.contiguous() : t; };
  const auto dense64 = [](const Tensor& t) { return t.defined() ? t.to(torch::kFloat64).contiguous() : t; };
  return {x_BLD.contiguous(),
          as_float32(weight_D),
          as_float32(bias_D),
          dense64(options.state.mean_BG),
          dense64(options.state.var_BG),
          dense(options.state.count_B),
          dense(options.padding_mask_BL),
          dense(options.starts_BL)};
}

}  // namespace

TimestepNormOut timestep_norm(const Tensor& x_BLD, const Tensor& weight_D, const Tensor& bias_D,
                              const TimestepNormOptions& options) {
  check_arguments(x_BLD, weight_D, bias_D, options);
  const auto y_type = options.y_type.value_or(x_BLD.scalar_type());
  const bool any_type = x_BLD.is_cuda() && use_kernel_of_any_type(x_BLD);
  // What the kernel does not read or write is converted around it.
  const bool reads = any_type || !is_reduced(x_BLD);
  const bool writes =
      any_type ? y_type == torch::kFloat32 || y_type == torch::kBFloat16 : y_type == x_BLD.scalar_type();
  if (!reads || !writes) {
    const Tensor readable_BLD = reads ? x_BLD : x_BLD.to(torch::kFloat32);
    TimestepNormOptions plain = options;
    plain.y_type = any_type ? torch::kFloat32 : readable_BLD.scalar_type();
    TimestepNormOut out = timestep_norm(readable_BLD, weight_D, bias_D, plain);
    out.y_BLD = out.y_BLD.to(y_type);
    return out;
  }
  if (!any_type && !use_kernel(x_BLD)) return ref::timestep_norm(x_BLD, weight_D, bias_D, options);
  const Operands in = operands(x_BLD, weight_D, bias_D, options);
  const variable_list out =
      in.need_gradient()
          ? TimestepNormFunction::apply(in.x_BLD, maybe(in.weight_D), maybe(in.bias_D), maybe(in.mean0_BG),
                                        maybe(in.var0_BG), maybe(in.count0_B), maybe(in.mask_BL), maybe(in.starts_BL),
                                        options.groups, options.eps, y_type)
          : run_forward(in, options.groups, options.eps, y_type, /*for_backward=*/false);
  return {out[0], {out[1], out[2], out[3]}};
}

}  // namespace megalodon::ops

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  using namespace megalodon;
  m.def(
      "timestep_norm(Tensor x, Tensor? weight, Tensor? bias, int groups, float eps=1e-5, Tensor? count=None,"
      " Tensor? mean=None, Tensor? var=None, Tensor? padding_mask=None, Tensor? starts=None)"
      " -> (Tensor, Tensor, Tensor, Tensor)",
      [](const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, int64_t groups, double eps,
         const OptionalTensor& count, const OptionalTensor& mean, const OptionalTensor& var,
         const OptionalTensor& padding_mask, const OptionalTensor& starts) {
        const ops::TimestepNormState state{or_undefined(count), or_undefined(mean), or_undefined(var)};
        const auto out = ops::timestep_norm(x, or_undefined(weight), or_undefined(bias),
                                            {groups, eps, state, or_undefined(padding_mask), or_undefined(starts)});
        return std::make_tuple(out.y_BLD, out.state.count_B, out.state.mean_BG, out.state.var_BG);
      });
}
