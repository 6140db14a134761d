// Checks, dispatch, autograd and registration of the recurrence. No arithmetic here.
#include "ops/linear_recurrence/linear_recurrence.h"

#include <string>
#include <tuple>

#include "base/check.h"
#include "ops/linear_recurrence/linear_recurrence_kernel.h"
#include "ops/registration.h"
#include "ops/text_of.h"

namespace megalodon::ops {
namespace {

/// `name` must have this dtype and this shape; `letters` are the shape's names.
void check_tensor(const Tensor& t, const char* name, c10::ScalarType dtype, const char* letters, at::IntArrayRef sizes,
                  const Tensor& x_BLD) {
  check(t.scalar_type() == dtype && t.sizes() == sizes, "[linear_recurrence] {} must be {} {} = [{}], got {}", name,
        toString(dtype), letters, fmt::join(sizes, ","), text_of(t));
  check(t.device() == x_BLD.device(), "[linear_recurrence] {} must be on the device of x, {}, got {}", name,
        x_BLD.device().str(), t.device().str());
}

/// The dtype of coefficients and states: float32 unless x is float64.
c10::ScalarType compute_dtype(const Tensor& x_BLD) {
  return x_BLD.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

/// The dtype in which kernel or reference read x: on a GPU, where bytes count, bfloat16 is read as it is.
c10::ScalarType operand_dtype(const Tensor& x_BLD) {
  return x_BLD.is_cuda() && use_kernel_of_any_type(x_BLD) ? x_BLD.scalar_type() : compute_dtype(x_BLD);
}

void check_inputs(const Tensor& x_BLD, const Tensor& q_DN, const Tensor& c_DN, const Tensor& skip_D,
                  const RecurrenceOptions& options) {
  check(x_BLD.defined() && x_BLD.dim() == 3 && x_BLD.is_floating_point(),
        "[linear_recurrence] x must be real [B,L,D], got {}", x_BLD.defined() ? text_of(x_BLD) : "an undefined tensor");
  check(q_DN.defined() && c_DN.defined() && skip_D.defined(), "[linear_recurrence] q, c and skip must be defined");
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1), D = x_BLD.size(2), N = q_DN.dim() == 2 ? q_DN.size(1) : 0;
  check(L >= 1, "[linear_recurrence] x must have at least one step, got {}", text_of(x_BLD));
  check(q_DN.is_complex() && q_DN.dim() == 2 && q_DN.size(0) == D && N >= 1,
        "[linear_recurrence] q must be complex [D,N] = [{},N] with N >= 1, got {}", D, text_of(q_DN));
  const c10::ScalarType real = compute_dtype(x_BLD), complex = c10::toComplexType(real);
  check_tensor(q_DN, "q", complex, "[D,N]", {D, N}, x_BLD);
  check_tensor(c_DN, "c", complex, "[D,N]", {D, N}, x_BLD);
  check_tensor(skip_D, "skip", skip_D.scalar_type() == x_BLD.scalar_type() ? x_BLD.scalar_type() : real, "[D]", {D},
               x_BLD);
  if (options.h0_BDN.defined()) check_tensor(options.h0_BDN, "h0", complex, "[B,D,N]", {B, D, N}, x_BLD);
  if (options.starts_BL.defined()) check_tensor(options.starts_BL, "starts", torch::kBool, "[B,L]", {B, L}, x_BLD);
}

/// As the kernel reads memory: contiguous, with pending conjugation and negation carried out.
Tensor plain(const Tensor& t) {
  return t.defined() ? t.contiguous().resolve_conj().resolve_neg() : t;
}

/// Null for an undefined tensor. Complex numbers are pairs of floats to the kernel.
float* floats(const Tensor& t) {
  return t.defined() ? static_cast<float*>(t.data_ptr()) : nullptr;
}

RecurrenceInputs kernel_inputs(const Tensor& x_BLD, const Tensor& q_DN, const Tensor& c_DN, const Tensor& skip_D,
                               const Tensor& h0_BDN, const Tensor& starts_BL) {
  const bool* starts = starts_BL.defined() ? starts_BL.data_ptr<bool>() : nullptr;
  return {x_BLD.size(0),      x_BLD.size(1),    x_BLD.size(2), q_DN.size(1),
          number_type(x_BLD), x_BLD.data_ptr(), floats(q_DN),  floats(c_DN),
          floats(skip_D),     floats(h0_BDN),   starts};
}

class LinearRecurrenceFunction : public torch::autograd::Function<LinearRecurrenceFunction> {
 public:
  /// {y}, or {y, h} when the state is wanted.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& x_BLD,
                                                const Tensor& q_DN, const Tensor& c_DN, const Tensor& skip_D,
                                                const OptionalTensor& h0_BDN, const OptionalTensor& starts_BL,
                                                bool want_state) {
    const Tensor x = plain(x_BLD), q = plain(q_DN), c = plain(c_DN), skip = plain(skip_D);
    const Tensor h0 = plain(or_undefined(h0_BDN)), starts = plain(or_undefined(starts_BL));
    torch::autograd::variable_list outputs = {torch::empty_like(x)};
    if (want_state) outputs.push_back(torch::empty({x.size(0), x.size(2), q.size(1)}, q.options()));
    run_kernel(x, MEGALODON_KERNELS(linear_recurrence_forward), kernel_inputs(x, q, c, skip, h0, starts),
               RecurrenceOutputs{outputs[0].data_ptr(), want_state ? floats(outputs[1]) : nullptr});
    context->save_for_backward({x, q, c, skip, h0, starts});
    return outputs;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    refuse_second_derivatives("linear_recurrence");
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &q = saved[1], &c = saved[2], &skip = saved[3], &h0 = saved[4], &starts = saved[5];
    const Tensor dy = grads[0].defined() ? plain(grads[0]) : torch::zeros_like(x);
    const Tensor dh = grads.size() > 1 ? plain(grads[1]) : Tensor();
    const Tensor dx = torch::empty_like(x), dq = torch::empty_like(q), dc = torch::empty_like(c);
    const Tensor dskip = torch::empty_like(skip), dh0 = h0.defined() ? torch::empty_like(h0) : Tensor();
    run_kernel(x, MEGALODON_KERNELS(linear_recurrence_backward), kernel_inputs(x, q, c, skip, h0, starts),
               RecurrenceGradients{dy.data_ptr(), floats(dh), dx.data_ptr(), floats(dq), floats(dc), floats(dskip),
                                   floats(dh0)});
    return {dx, dq, dc, dskip, dh0, Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> registered_linear_recurrence(const Tensor& x_BLD, const Tensor& q_DN, const Tensor& c_DN,
                                                        const Tensor& skip_D, const OptionalTensor& h0_BDN,
                                                        const OptionalTensor& starts_BL, bool want_state) {
  auto [y_BLD, h_BDN] =
      linear_recurrence(x_BLD, q_DN, c_DN, skip_D, {or_undefined(h0_BDN), or_undefined(starts_BL), want_state});
  return {y_BLD, h_BDN.defined() ? h_BDN : torch::empty({0}, q_DN.options())};
}

}  // namespace

RecurrenceOut linear_recurrence(const Tensor& x_BLD, const Tensor& q_DN, const Tensor& c_DN, const Tensor& skip_D,
                                const RecurrenceOptions& options) {
  check_inputs(x_BLD, q_DN, c_DN, skip_D, options);
  const Tensor x = x_BLD.to(operand_dtype(x_BLD)), skip = skip_D.to(compute_dtype(x_BLD));
  if (!use_kernel_of_any_type(x) || (x.is_cuda() && q_DN.size(1) > kMostCudaOrders)) {
    auto [y_BLD, h_BDN] = ref::linear_recurrence(x.to(skip.scalar_type()), q_DN, c_DN, skip, options);
    return {y_BLD.to(x_BLD.scalar_type()), h_BDN};
  }
  const auto outputs = LinearRecurrenceFunction::apply(x, q_DN, c_DN, skip, maybe(options.h0_BDN),
                                                       maybe(options.starts_BL), options.want_state);
  return {outputs[0].to(x_BLD.scalar_type()), options.want_state ? outputs[1] : Tensor()};
}

}  // namespace megalodon::ops

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def(
      "linear_recurrence(Tensor x, Tensor q, Tensor c, Tensor skip, Tensor? h0=None, Tensor? starts=None, "
      "bool want_state=False) -> (Tensor, Tensor)",
      &megalodon::ops::registered_linear_recurrence);
}
