#include "nn/norm.h"

#include "base/check.h"
#include "nn/parameters.h"
#include "ops/row_norm/row_norm.h"

namespace megalodon::nn {

Norm::Norm(const std::string& type, int64_t dim, double eps, bool affine) : type_(type), eps_(eps) {
  if (affine) weight_ = type == "scale" ? register_at(*this, "scalar", {1}) : register_at(*this, "weight", {dim});
  if (affine && (type == "layer" || type == "batch")) bias_ = register_at(*this, "bias", {dim});
  if (type != "batch") return;
  running_mean_ = register_buffer("running_mean", torch::zeros({dim}));
  running_var_ = register_buffer("running_var", torch::ones({dim}));
  batches_ = register_buffer("num_batches_tracked", torch::zeros({}, torch::kInt64));
}

Tensor Norm::forward(const Tensor& x_BLD) {
  if (type_ == "layer") return ops::layer_norm(x_BLD, weight_, bias_, eps_);
  if (type_ != "batch")
    return ops::rms_norm(x_BLD, weight_.defined() ? weight_.expand({x_BLD.size(-1)}) : weight_, eps_);
  return batch_norm(x_BLD);
}

/// In float64: what follows a batch norm has gradients that cancel over the batch.
Tensor Norm::batch_norm(const Tensor& x_BLD) {
  const Tensor x_ND = x_BLD.flatten(0, -2).to(torch::kFloat64);
  Tensor mean_D = running_mean_.to(torch::kFloat64), var_D = running_var_.to(torch::kFloat64);
  if (is_training()) {
    const int64_t N = x_ND.size(0);
    check(N > 1, "[norm] a batch norm in training wants more than one step");
    mean_D = x_ND.mean(0), var_D = x_ND.var(0, /*unbiased=*/false);
    torch::NoGradGuard no_grad;
    running_mean_.lerp_(mean_D.to(running_mean_.scalar_type()), 0.1);
    running_var_.lerp_((var_D * N / (N - 1)).to(running_var_.scalar_type()), 0.1);
    batches_.add_(1);
  }
  Tensor y_ND = (x_ND - mean_D) * torch::rsqrt(var_D + eps_);
  if (weight_.defined()) y_ND = y_ND * (weight_ + 1) + bias_;
  return y_ND.to(x_BLD.scalar_type()).view(x_BLD.sizes());
}

void Norm::init_weights() {
  torch::NoGradGuard no_grad;
  for (const Tensor& zero : {weight_, bias_, running_mean_, batches_})
    if (zero.defined()) zero.zero_();
  if (running_var_.defined()) running_var_.fill_(1);
}

}  // namespace megalodon::nn
