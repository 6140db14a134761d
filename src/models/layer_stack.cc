#include "models/layer_stack.h"

#include "base/philox.h"
#include "nn/checkpoint.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/parameters.h"

namespace megalodon {

namespace {

/// Apart from an architecture's own sites, which count from 0. Behind them come the layers' keys.
enum StackSite : uint64_t { kOnRows = 62, kOnBands, kLayers };

}  // namespace

LayerStack::LayerStack(int64_t vocabulary, int64_t model_dim, const AdaptiveConfig& adaptive, double row_dropout)
    : vocabulary_(vocabulary), adaptive_(adaptive), row_dropout_(row_dropout) {
  const std::vector<int64_t> bounds = adaptive.bounds(vocabulary);
  embed_ = nn::register_at(*this, "embed.weight", {bounds.empty() ? vocabulary : bounds[0], model_dim});
  list_ = register_module("layers", std::make_shared<torch::nn::Module>());
}

void LayerStack::add_layer(std::shared_ptr<StackedLayer> layer) {
  slots_.push_back(layers_.empty() ? 0 : slots_.back() + (layers_.back()->has_state() ? 1 : 0));
  layers_.push_back(list_->register_module(std::to_string(layers_.size()), std::move(layer)));
}

void LayerStack::add_output(int64_t outputs, bool is_embedding) {
  output_ = is_embedding ? nn::Linear(embed_)
                         : nn::Linear(*this, "output.output", embed_.size(1), outputs, /*with_bias=*/false);
  if (const auto bounds = adaptive_.bounds(vocabulary_); !bounds.empty())
    bands_.emplace(*this, bounds, vocabulary_, embed_.size(1), adaptive_.factor);
}

std::vector<nn::Linear*> LayerStack::linears() {
  std::vector<nn::Linear*> list;
  const auto add = [&](const std::vector<nn::Linear*>& more) { list.insert(list.end(), more.begin(), more.end()); };
  for (const auto& layer : layers_) add(layer->linears());
  if (bands_) add(bands_->linears());
  list.push_back(&output_);
  return list;
}

int64_t LayerStack::vocabulary_parameters() const {
  return bands_ ? bands_->parameters() : output_.weight.numel();
}

void LayerStack::set_precision(nn::Precision precision) {
  Model::set_precision(precision);
  for (const auto& layer : layers_) layer->set_precision(precision);
}

void LayerStack::init_weights(uint64_t seed) {
  torch::NoGradGuard no_grad;
  nn::embedding(embed_, derive_key(seed, 0));
  if (!output_.weight.is_same(embed_)) nn::embedding(output_.weight, derive_key(seed, 1));
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i]->init_weights(derive_key(seed, 2 + i));
  if (bands_) bands_->init_weights(derive_key(seed, 2 + layers_.size()));
}

Tensor LayerStack::hidden(const ModelInput& anywhere, Carry& carry) {
  const ModelInput input = here(anywhere);
  Tensor x_BLD = embedded(rows(input.tokens_BL), input, carry);
  for (int64_t i = 0; i < depth(); ++i) {
    x_BLD = run_layer(i, x_BLD, input, carry);
    if (observer_) observer_(i, x_BLD);
  }
  return final_norm(x_BLD, input, carry);
}

Tensor LayerStack::rows(const Tensor& tokens_BL) const {
  const double p = is_training() ? row_dropout_ : 0;
  const uint64_t key = derive_key(dropout_key_, kOnRows);
  if (bands_) return bands_->embed(tokens_BL, output_, precision_, p, key);
  return nn::drop(torch::embedding(embed_, tokens_BL), p, key, 0, /*training=*/p > 0);
}

Tensor LayerStack::logits_of(const Tensor& hidden, std::optional<nn::Precision> precision) const {
  if (!bands_) return Model::logits_of(hidden, precision);
  return bands_->log_probabilities(hidden, output_, precision.value_or(precision_));
}

Tensor LayerStack::nll_of(const Tensor& hidden_BLD, const Tensor& targets_BL) const {
  if (!bands_) return Model::nll_of(hidden_BLD, targets_BL);
  return bands_->nll(hidden_BLD, targets_BL, output_, precision_, is_training() ? adaptive_.dropout : 0,
                     derive_key(dropout_key_, kOnBands));
}

Tensor LayerStack::run_layer(int64_t i, const Tensor& x_BLD, const ModelInput& input, Carry& carry) {
  const uint64_t key = derive_key(dropout_key_, kLayers + i);
  const auto& layer = layers_[static_cast<size_t>(i)];
  const int64_t slot = slots_[static_cast<size_t>(i)];
  const auto first = [&](const Tensor& x) { return layer->forward(x, input, carry, slot, key); };
  const bool may_recompute = checkpoint_every_ > 0 && is_training() && torch::GradMode::is_enabled();
  if (!may_recompute || i % checkpoint_every_ != 0) return first(x_BLD);
  // By value, and without the carry: the backward pass runs when this call is long over.
  const auto again = [layer, input, before = layer->has_state() ? carry.before(slot) : State(), slot,
                      key](const Tensor& x) {
    ReplayCarry replay(before);
    return layer->forward(x, input, replay, slot, key);
  };
  return nn::checkpoint(first, again, x_BLD);
}

}  // namespace megalodon
