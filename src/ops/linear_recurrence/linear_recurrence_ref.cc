// The specification of the recurrence: one tensor expression per equation, one loop over time, gradients by autograd.
#include "ops/linear_recurrence/linear_recurrence.h"

namespace megalodon::ops::ref {

RecurrenceOut linear_recurrence(const Tensor& x_BLD, const Tensor& q_DN, const Tensor& c_DN, const Tensor& skip_D,
                                const RecurrenceOptions& options) {
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1), D = x_BLD.size(2), N = q_DN.size(1);
  Tensor h_BDN = options.h0_BDN.defined() ? options.h0_BDN : torch::zeros({B, D, N}, q_DN.options());
  std::vector<Tensor> y_BD;
  for (int64_t t = 0; t < L; ++t) {
    const Tensor x_BD = x_BLD.select(1, t);
    if (options.starts_BL.defined()) {
      const Tensor starts_B11 = options.starts_BL.select(1, t).view({B, 1, 1});
      h_BDN = torch::where(starts_B11, torch::zeros_like(h_BDN), h_BDN);
    }
    h_BDN = q_DN * h_BDN + x_BD.unsqueeze(-1);
    y_BD.push_back(torch::real(c_DN * h_BDN).sum(-1) + skip_D * x_BD);
  }
  return {torch::stack(y_BD, 1), options.want_state ? h_BDN : Tensor()};
}

}  // namespace megalodon::ops::ref
