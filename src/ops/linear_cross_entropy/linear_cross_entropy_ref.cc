// The specification: all logits at once, log softmax, pick the target. Also what serves float64 and other devices.
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"

namespace megalodon::ops::ref {

Tensor linear_cross_entropy(const Tensor& x_BLD, const Tensor& w_VD, const Tensor& targets_BL) {
  const int64_t tokens = targets_BL.numel();
  const auto softmax_type = x_BLD.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const Tensor logits_TV = torch::matmul(x_BLD.reshape({tokens, w_VD.size(1)}), w_VD.t()).to(softmax_type);
  const Tensor nll_T = at::nll_loss(torch::log_softmax(logits_TV, -1), targets_BL.reshape({tokens}), /*weight=*/{},
                                    at::Reduction::None, kIgnoredTarget);
  return nll_T.reshape(targets_BL.sizes());
}

}  // namespace megalodon::ops::ref
