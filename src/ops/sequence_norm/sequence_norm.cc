// sequence_norm as tensor operations: autograd differentiates it, any device and type runs it.
#include "ops/sequence_norm/sequence_norm.h"

#include "ops/registration.h"
#include "ops/row_norm/norm_checks.h"

namespace megalodon::ops {
namespace {

constexpr const char* kSequenceNorm = "sequence_norm";

void check_arguments(const Tensor& x_BLD, const Tensor& scale_D, const Tensor& bias_D,
                     const SequenceNormOptions& options) {
  check_norm_input(kSequenceNorm, x_BLD, 3, options.eps);
  check_norm_groups(kSequenceNorm, x_BLD, options.groups);
  check(scale_D.defined() && bias_D.defined(), "[{}] expected scale and bias, got {} and {}", kSequenceNorm,
        scale_D.defined() ? "scale" : "no scale", bias_D.defined() ? "bias" : "no bias");
  check_norm_parameter(kSequenceNorm, "scale", scale_D, x_BLD);
  check_norm_parameter(kSequenceNorm, "bias", bias_D, x_BLD);
  check_norm_flags(kSequenceNorm, "padding_mask", options.padding_mask_BL, x_BLD);
}

}  // namespace

SequenceNormOut sequence_norm(const Tensor& x_BLD, const Tensor& scale_D, const Tensor& bias_D,
                              const SequenceNormOptions& options) {
  check_arguments(x_BLD, scale_D, bias_D, options);
  if (is_reduced(x_BLD)) {
    SequenceNormOut out = sequence_norm(x_BLD.to(torch::kFloat32), scale_D, bias_D, options);
    out.y_BLD = out.y_BLD.to(x_BLD.scalar_type());
    return out;
  }
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1), D = x_BLD.size(2), G = options.groups;
  const Tensor valid_BL = options.padding_mask_BL.defined()
                              ? options.padding_mask_BL.logical_not()
                              : torch::ones({B, L}, x_BLD.options().dtype(torch::kBool).requires_grad(false));
  const Tensor valid_BL11 = valid_BL.unsqueeze(2).unsqueeze(3);
  // torch::where and not a product: a masked step may hold NaN, which must reach neither y nor a gradient.
  const auto only_valid = [&](const Tensor& t_BLGK) {
    return torch::where(valid_BL11, t_BLGK, torch::zeros_like(t_BLGK));
  };

  const Tensor x_BLGK = only_valid(x_BLD.reshape({B, L, G, D / G}));
  const Tensor count_B = valid_BL.sum(1);
  const Tensor numbers_B1 = (count_B.clamp_min(1) * (D / G)).unsqueeze(1).to(x_BLD.scalar_type());
  const Tensor mean_BG = x_BLGK.sum({1, 3}) / numbers_B1;
  const Tensor centered_BLGK = only_valid(x_BLGK - mean_BG.view({B, 1, G, 1}));
  const Tensor rstd_BG = (centered_BLGK.square().sum({1, 3}) / numbers_B1 + options.eps).rsqrt();

  const Tensor normal_BLD = (centered_BLGK * rstd_BG.view({B, 1, G, 1})).reshape({B, L, D});
  const Tensor y_BLD = normal_BLD * scale_D.to(x_BLD.scalar_type()) + bias_D.to(x_BLD.scalar_type());
  return {torch::where(valid_BL.unsqueeze(2), y_BLD, torch::zeros_like(y_BLD)), count_B, mean_BG, rstd_BG};
}

}  // namespace megalodon::ops

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  using namespace megalodon;
  m.def(
      "sequence_norm(Tensor x, Tensor scale, Tensor bias, int groups, float eps=1e-5, Tensor? padding_mask=None)"
      " -> (Tensor, Tensor, Tensor, Tensor)",
      [](const Tensor& x, const Tensor& scale, const Tensor& bias, int64_t groups, double eps,
         const OptionalTensor& padding_mask) {
        const auto out = ops::sequence_norm(x, scale, bias, {groups, eps, or_undefined(padding_mask)});
        return std::make_tuple(out.y_BLD, out.count_B, out.mean_BG, out.rstd_BG);
      });
}
