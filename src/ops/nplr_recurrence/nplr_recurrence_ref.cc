// The specification of the recurrence: one tensor expression per equation, one loop over time, gradients by autograd.
#include "ops/nplr_recurrence/nplr_recurrence.h"

namespace megalodon::ops::ref {

RecurrenceOut nplr_recurrence(const Tensor& u_BLD, const NplrStep& step, const Tensor& c_DN, const Tensor& skip_D,
                              const RecurrenceOptions& options) {
  const int64_t B = u_BLD.size(0), L = u_BLD.size(1), D = u_BLD.size(2), N = step.q_DN.size(1);
  Tensor x_BDN = options.h0_BDN.defined() ? options.h0_BDN : torch::zeros({B, D, N}, step.q_DN.options());
  std::vector<Tensor> y_BD;
  for (int64_t t = 0; t < L; ++t) {
    const Tensor u_BD = u_BLD.select(1, t);
    if (options.starts_BL.defined()) {
      const Tensor starts_B11 = options.starts_BL.select(1, t).view({B, 1, 1});
      x_BDN = torch::where(starts_B11, torch::zeros_like(x_BDN), x_BDN);
    }
    const Tensor s_RBD = 2 * torch::real(step.f_RDN.unsqueeze(1) * x_BDN).sum(-1) + step.phi_RD.unsqueeze(1) * u_BD;
    x_BDN =
        step.q_DN * x_BDN + step.beta_DN * u_BD.unsqueeze(-1) - (step.w_RDN.unsqueeze(1) * s_RBD.unsqueeze(-1)).sum(0);
    y_BD.push_back(2 * torch::real(c_DN * x_BDN).sum(-1) + skip_D * u_BD);
  }
  return {torch::stack(y_BD, 1), options.want_state ? x_BDN : Tensor()};
}

}  // namespace megalodon::ops::ref
