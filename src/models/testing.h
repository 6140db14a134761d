// Small models and inputs that the tests of models, inference and training share.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "models/megalodon.h"
#include "models/transformer.h"

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

inline TransformerConfig tiny_transformer(const std::string& position) {
  TransformerConfig config;
  config.num_layers = 2, config.layer.model_dim = 16, config.layer.num_heads = 4, config.layer.ffn_hidden_dim = 20;
  config.vocab_size = 19, config.max_positions = 64, config.layer.position = position;
  return config;
}

/// A small preset with its vocabulary in three bands.
inline std::unique_ptr<ModelConfig> in_bands(const std::string& preset) {
  auto config = make_preset(preset);
  config::read(*config, {{"adaptive_cutoffs", "32,96"}, {"adaptive_factor", 2}, {"share_emb", true}}, {}, "test");
  return config;
}

/// With initial weights and noise on top, so that nothing is zero.
template <class Network>
std::unique_ptr<Network> with_noise(std::unique_ptr<Network> network, int64_t seed) {
  network->init_weights(seed);
  torch::NoGradGuard no_grad;
  torch::manual_seed(seed);
  for (Tensor& parameter : network->parameters()) parameter.add_(torch::randn_like(parameter), 0.1);
  network->eval();
  return network;
}

inline std::unique_ptr<Model> noisy_model(const ModelConfig& config, int64_t seed = 1) {
  return with_noise(config.build(), seed);
}

inline Tensor random_tokens(const ModelConfig& config, int64_t batch, int64_t length, int64_t seed = 7) {
  torch::manual_seed(seed);
  return torch::randint(config.vocabulary(), {batch, length}, torch::kInt64);
}

inline Tensor one_pass(Model& model, const ModelInput& input) {
  NoCarry none;
  return model.logits(input, none);
}

inline Tensor in_calls(Model& model, const ModelInput& input, const std::vector<int64_t>& calls, StreamCarry& carry) {
  std::vector<Tensor> pieces;
  int64_t at = 0;
  for (const int64_t steps : calls) {
    const Tensor starts = input.starts_BL.defined() ? input.starts_BL.narrow(1, at, steps) : Tensor();
    pieces.push_back(model.logits({input.tokens_BL.narrow(1, at, steps), starts}, carry));
    at += steps;
  }
  return torch::cat(pieces, 1);
}

inline std::vector<int64_t> random_split(int64_t length, std::mt19937_64& rng) {
  std::vector<int64_t> calls;
  for (int64_t left = length; left > 0; left -= calls.back())
    calls.push_back(std::min<int64_t>(left, 1 + static_cast<int64_t>(rng() % (rng() % 2 == 0 ? 4 : 20))));
  return calls;
}

/// Of two random rows.
inline Tensor mean_loss(Model& model, int64_t length) {
  NoCarry none;
  const Tensor tokens = random_tokens(model.config(), 2, length), targets = random_tokens(model.config(), 2, length, 8);
  return model.nll({tokens, {}}, targets, none).mean();
}

/// Those of a scalar, by parameter, in float64.
inline std::vector<Tensor> gradients_of(const Tensor& loss, Model& model) {
  model.zero_grad();
  loss.backward();
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : model.parameters()) gradients.push_back(parameter.grad().to(torch::kFloat64));
  return gradients;
}

/// Logits of one document among others, and the gradients of a function of them alone.
inline std::vector<Tensor> document_results(Model& model, const ModelInput& input, int64_t begin, int64_t end) {
  NoCarry none;
  model.zero_grad();
  const Tensor logits = model.logits(input, none).slice(1, begin, end);
  logits.square().sum().backward();
  std::vector<Tensor> results = {logits.detach().clone()};
  for (const Tensor& parameter : model.parameters()) results.push_back(parameter.grad().clone());
  return results;
}

/// Documents [0, begin), [begin, end) and [end, length): what the middle one gives, with the others of that seed.
inline std::vector<Tensor> between_neighbours(Model& model, const ModelConfig& config, int64_t begin, int64_t end,
                                              int64_t length, int64_t seed_of_others) {
  Tensor tokens = random_tokens(config, 1, length).clone(), starts = torch::zeros({1, length}, torch::kBool);
  const Tensor others = random_tokens(config, 1, length, seed_of_others);
  tokens.slice(1, 0, begin).copy_(others.slice(1, 0, begin));
  tokens.slice(1, end).copy_(others.slice(1, end));
  starts[0][begin] = true;
  if (end < length) starts[0][end] = true;
  return document_results(model, {tokens, starts}, begin, end);
}

/// Two rows of `length` tokens trained in stretches of 13, with dropout: losses, what is carried on in the end, and
/// gradients. `starts` [2,length] may be undefined.
inline std::vector<Tensor> results_of_stretches(Model& model, int64_t length, const Tensor& starts_BL = {}) {
  const Tensor tokens = random_tokens(model.config(), 2, length), targets = random_tokens(model.config(), 2, length, 9);
  const auto part = [](const Tensor& t, int64_t at) { return t.defined() ? t.narrow(1, at, 13) : t; };
  std::vector<Tensor> results;
  model.zero_grad();
  StreamCarry carry;
  for (int64_t at = 0; at < length; at += 13) {
    model.set_dropout_key(77 + at);
    const Tensor loss = model.nll({part(tokens, at), part(starts_BL, at)}, part(targets, at), carry).mean();
    loss.backward();
    results.push_back(loss.detach());
  }
  for (const auto& [name, tensor] : carry.tensors()) results.push_back(tensor);
  for (const Tensor& parameter : model.parameters()) results.push_back(parameter.grad().clone());
  return results;
}

}  // namespace megalodon::testing
