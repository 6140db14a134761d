// Checks, dispatch and registration of the recurrence, and its coefficients.
#include "ops/nplr_recurrence/nplr_recurrence.h"

#include <fmt/ranges.h>

#include <string>

#include "base/check.h"
#include "ops/nplr_recurrence/nplr_recurrence_kernel.h"
#include "ops/registration.h"
#include "ops/text_of.h"

namespace megalodon::ops {
namespace {

struct NplrShape {
  int64_t B, L, D, N, R;
};

NplrShape check_arguments(const Tensor& u_BLD, const NplrStep& step, const Tensor& c_DN, const Tensor& skip_D,
                          const RecurrenceOptions& options) {
  check(u_BLD.defined() && u_BLD.dim() == 3 && u_BLD.size(1) > 0 &&
            (u_BLD.scalar_type() == torch::kFloat32 || u_BLD.scalar_type() == torch::kFloat64),
        "[nplr_recurrence] u must be float32 or float64 [B,L,D] with L >= 1, got {}", text_of(u_BLD));
  check(step.w_RDN.defined() && step.w_RDN.dim() == 3 && step.w_RDN.size(2) > 0,
        "[nplr_recurrence] w must be [R,D,N] with N >= 1, got {}", text_of(step.w_RDN));
  const int64_t B = u_BLD.size(0), L = u_BLD.size(1), D = u_BLD.size(2), R = step.w_RDN.size(0), N = step.w_RDN.size(2);
  const auto expect = [&](const Tensor& t, const char* name, c10::ScalarType type, at::IntArrayRef sizes) {
    check(t.defined() && t.scalar_type() == type && t.sizes() == sizes && t.device() == u_BLD.device(),
          "[nplr_recurrence] {} must be {} [{}] on {}, got {}", name, toString(type), fmt::join(sizes, ","),
          u_BLD.device().str(), text_of(t));
  };
  const c10::ScalarType real = u_BLD.scalar_type(), complex = c10::toComplexType(real);
  expect(step.q_DN, "q", complex, {D, N});
  expect(step.beta_DN, "beta", complex, {D, N});
  expect(step.f_RDN, "f", complex, {R, D, N});
  expect(step.w_RDN, "w", complex, {R, D, N});
  expect(step.phi_RD, "phi", real, {R, D});
  expect(c_DN, "c", complex, {D, N});
  expect(skip_D, "skip", real, {D});
  if (options.h0_BDN.defined()) expect(options.h0_BDN, "h0", complex, {B, D, N});
  if (options.starts_BL.defined()) expect(options.starts_BL, "starts", torch::kBool, {B, L});
  return {B, L, D, N, R};
}

RecurrenceOut run_on_kernel(const Tensor& u_BLD, const NplrStep& step, const Tensor& c_DN, const Tensor& skip_D,
                            const RecurrenceOptions& options, const NplrShape& shape) {
  std::vector<Tensor> alive;  // what the kernel reads
  const auto floats = [&](const Tensor& t) -> float* {
    if (!t.defined()) return nullptr;
    return static_cast<float*>(alive.emplace_back(t.contiguous().resolve_conj().resolve_neg()).data_ptr());
  };
  RecurrenceOut out = {torch::empty_like(u_BLD, torch::MemoryFormat::Contiguous), {}};
  if (options.want_state) out.h_BDN = torch::empty({shape.B, shape.D, shape.N}, step.q_DN.options());
  const Tensor starts = options.starts_BL.defined() ? options.starts_BL.contiguous() : Tensor();
  nplr_recurrence_cpu({shape.B, shape.L, shape.D, shape.N, shape.R, floats(u_BLD), floats(step.q_DN),
                       floats(step.beta_DN), floats(step.f_RDN), floats(step.w_RDN), floats(step.phi_RD), floats(c_DN),
                       floats(skip_D), floats(options.h0_BDN), starts.defined() ? starts.data_ptr<bool>() : nullptr},
                      {out.y_BLD.data_ptr<float>(), floats(out.h_BDN)});
  return out;
}

}  // namespace

NplrStep nplr_step(const NplrSystem& system) {
  const Tensor e_DN = 1 / (1 - system.a_HN / 2);
  const Tensor pe_RDN = system.p_RHN * e_DN, beta_DN = e_DN * system.b_HN;
  const auto inner = [](const Tensor& v, const Tensor& u) { return 2 * torch::real(v.conj() * u).sum(-1); };
  // 2 I + p^* e p, [D,R,R], and the columns e p times its inverse.
  const Tensor pp_DRR = inner(system.p_RHN.unsqueeze(1), pe_RDN.unsqueeze(0)).permute({2, 0, 1});
  const Tensor matrix_DRR = pp_DRR + 2 * torch::eye(pp_DRR.size(1), pp_DRR.options().requires_grad(false));
  const Tensor inverse_DRR = torch::linalg_inv(matrix_DRR).to(e_DN.scalar_type());
  const Tensor w_DNR = torch::matmul(pe_RDN.permute({1, 2, 0}), inverse_DRR);
  return {2 * e_DN - 1, beta_DN, 2 * system.p_RHN.conj() * e_DN, w_DNR.permute({2, 0, 1}),
          inner(system.p_RHN, beta_DN)};
}

RecurrenceOut nplr_recurrence(const Tensor& u_BLD, const NplrStep& step, const Tensor& c_DN, const Tensor& skip_D,
                              const RecurrenceOptions& options) {
  const NplrShape shape = check_arguments(u_BLD, step, c_DN, skip_D, options);
  const bool differentiated = is_differentiated({u_BLD, step.q_DN, step.beta_DN, step.f_RDN, step.w_RDN, step.phi_RD,
                                                 c_DN, skip_D, options.h0_BDN.defined() ? options.h0_BDN : u_BLD});
  if (differentiated || !u_BLD.is_cpu() || !use_kernel(u_BLD))
    return ref::nplr_recurrence(u_BLD, step, c_DN, skip_D, options);
  return run_on_kernel(u_BLD, step, c_DN, skip_D, options, shape);
}

}  // namespace megalodon::ops

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  using namespace megalodon;
  m.def(
      "nplr_recurrence(Tensor u, Tensor a, Tensor b, Tensor p, Tensor c, Tensor skip, Tensor? h0=None, "
      "Tensor? starts=None) -> (Tensor, Tensor)",
      [](const Tensor& u, const Tensor& a, const Tensor& b, const Tensor& p, const Tensor& c, const Tensor& skip,
         const OptionalTensor& h0, const OptionalTensor& starts) {
        const auto out =
            ops::nplr_recurrence(u, ops::nplr_step({a, b, p}), c, skip, {or_undefined(h0), or_undefined(starts), true});
        return std::make_tuple(out.y_BLD, out.h_BDN);
      });
}
