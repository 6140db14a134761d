// The specification of the convolution: every lag a product, every sum over lags written out.
#include "ops/long_convolution/long_convolution.h"

namespace megalodon::ops::ref {

Tensor long_convolution(const Tensor& x_BLD, const Tensor& kernel_CDK, const Tensor& skip_CD,
                        const ConvolutionOptions& options) {
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1), D = x_BLD.size(2);
  const Tensor document_BL = options.starts_BL.defined()
                                 ? options.starts_BL.to(torch::kInt64).cumsum(1)
                                 : torch::zeros({B, L}, x_BLD.options().dtype(torch::kInt64).requires_grad(false));
  Tensor y_BLCD = x_BLD.unsqueeze(2) * skip_CD;
  const auto add = [&](const Tensor& tap_CD, int64_t lag) {
    std::vector<Tensor> shifted_BLD;
    for (int64_t t = 0; t < L; ++t) {
      const int64_t from = t - lag;
      if (from < 0 || from >= L) {
        shifted_BLD.push_back(torch::zeros({B, D}, x_BLD.options()));
        continue;
      }
      const Tensor same_B1 = (document_BL.select(1, t) == document_BL.select(1, from)).unsqueeze(1),
                   x_BD = x_BLD.select(1, from);
      shifted_BLD.push_back(torch::where(same_B1, x_BD, torch::zeros_like(x_BD)));
    }
    y_BLCD = y_BLCD + torch::stack(shifted_BLD, 1).unsqueeze(2) * tap_CD;
  };
  for (int64_t j = 0; j < kernel_CDK.size(2); ++j) add(kernel_CDK.select(2, j), j);
  for (int64_t j = 1; options.reverse_CDK.defined() && j <= options.reverse_CDK.size(2); ++j)
    add(options.reverse_CDK.select(2, j - 1), -j);
  return y_BLCD.reshape({B, L, kernel_CDK.size(0) * D});
}

}  // namespace megalodon::ops::ref
