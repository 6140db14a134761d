#include "nn/feed_forward.h"

#include "ops/gated_silu/gated_silu.h"

namespace megalodon::nn {
namespace {

enum FeedForwardSite : uint64_t { kOnHidden, kOnOutput };

}  // namespace

Tensor activate(const std::string& name, const Tensor& x) {
  if (name == "silu") return ops::gated_silu(x.contiguous(), {});
  return name == "gelu" ? torch::gelu(x) : torch::relu(x);
}

FeedForward::FeedForward(const FeedForwardConfig& config) : config_(config) {
  norm_ = register_module("norm", std::make_shared<Norm>(config.norm, config.dim, config.norm_eps));
  fc1_ = Linear(*this, "fc1", config.dim, config.hidden, /*with_bias=*/true);
  fc2_ = Linear(*this, "fc2", config.hidden, config.dim, true);
}

void FeedForward::init_weights(uint64_t key) {
  init_linears(linears(), config_.init, key);
  norm_->init_weights();
}

Tensor FeedForward::forward(const Tensor& x_BLD, uint64_t dropout_key) {
  const Tensor u_BLD = (config_.prenorm ? norm_->forward(x_BLD) : x_BLD).to(activation_type(x_BLD, precision_));
  const Tensor hidden_BLF = drop(activate(config_.activation, fc1_(u_BLD, precision_)), config_.hidden_dropout,
                                 dropout_key, kOnHidden, is_training());
  const bool drops = is_training() && config_.dropout.p > 0;
  const Tensor y_BLD = drops ? x_BLD + drop(fc2_(hidden_BLF, precision_), config_.dropout, dropout_key, kOnOutput, true)
                             : fc2_(hidden_BLF, precision_, x_BLD);
  return config_.prenorm ? y_BLD : norm_->forward(y_BLD);
}

}  // namespace megalodon::nn
