// Small models and inputs that the tests of models, inference and training share.
#pragma once

#include "models/megalodon.h"

namespace megalodon::testing {

/// Two layers that use every switch that changes the function.
inline MegalodonConfig tiny_config() {
  MegalodonConfig config;
  config.num_layers = 2, config.model_dim = 16, config.z_dim = 8, config.value_dim = 24, config.num_heads = 2;
  config.ffn_hidden_dim = 20, config.cema_ndim = 4, config.chunk_size = 8, config.vocab_size = 19,
  config.norm_num_groups = 4;
  config.swiglu = config.rescale_nffn = config.scale_emb = true;
  return config;
}

/// Initial weights with noise on top, so that nothing is zero.
inline std::unique_ptr<Model> noisy_model(const MegalodonConfig& config, int64_t seed = 1) {
  auto model = config.build();
  model->init_weights(seed);
  torch::NoGradGuard no_grad;
  torch::manual_seed(seed);
  for (Tensor& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter), 0.1);
  model->eval();
  return model;
}

inline Tensor random_tokens(const MegalodonConfig& config, int64_t batch, int64_t length, int64_t seed = 7) {
  torch::manual_seed(seed);
  return torch::randint(config.vocab_size, {batch, length}, torch::kInt64);
}

}  // namespace megalodon::testing
