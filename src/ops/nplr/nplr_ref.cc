// The specification of the kernel: c Ā^l B̄, one power after another. In complex128, whatever comes in: c of c̃ is
// ill-conditioned where the length is short beside the step sizes.
#include "ops/nplr/nplr.h"

namespace megalodon::ops::ref {

Tensor nplr_kernel(const NplrSystem& system, const Tensor& attuned_CHN, int64_t length) {
  const auto widened = [](const Tensor& t) { return t.to(torch::kComplexDouble); };
  const NplrSystem wide = {widened(system.a_HN), widened(system.b_HN), widened(system.p_RHN)};
  const NplrMatrices matrices = nplr_matrices(wide);
  const Tensor c_CHN = nplr_unattune(wide, widened(attuned_CHN), length);
  const int64_t N = c_CHN.size(2);
  Tensor x_HX = matrices.b_HX;
  std::vector<Tensor> taps_CH;
  for (int64_t l = 0; l < length; ++l) {
    const Tensor x_HN = torch::complex(x_HX.narrow(1, 0, N), x_HX.narrow(1, N, N));
    taps_CH.push_back(2 * torch::real(c_CHN * x_HN).sum(-1));
    x_HX = torch::matmul(matrices.a_HXX, x_HX.unsqueeze(-1)).squeeze(-1);
  }
  return torch::stack(taps_CH, -1).to(c10::toRealValueType(attuned_CHN.scalar_type()));
}

}  // namespace megalodon::ops::ref
