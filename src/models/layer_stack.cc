#include "models/layer_stack.h"

#include "base/philox.h"
#include "nn/checkpoint.h"
#include "nn/init.h"
#include "nn/parameters.h"

namespace megalodon {

LayerStack::LayerStack(int64_t vocabulary, int64_t model_dim)
    : embed_(nn::register_at(*this, "embed.weight", {vocabulary, model_dim})),
      list_(register_module("layers", std::make_shared<torch::nn::Module>())) {}

void LayerStack::add_layer(std::shared_ptr<StackedLayer> layer) {
  layers_.push_back(list_->register_module(std::to_string(layers_.size()), std::move(layer)));
}

void LayerStack::add_output(int64_t outputs, bool is_embedding) {
  output_ = is_embedding ? nn::Linear(embed_)
                         : nn::Linear(*this, "output.output", embed_.size(1), outputs, /*with_bias=*/false);
}

std::vector<nn::Linear*> LayerStack::linears() {
  std::vector<nn::Linear*> list;
  for (const auto& layer : layers_)
    for (nn::Linear* linear : layer->linears()) list.push_back(linear);
  list.push_back(&output_);
  return list;
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
  return torch::embedding(embed_, tokens_BL);
}

Tensor LayerStack::run_layer(int64_t i, const Tensor& x_BLD, const ModelInput& input, Carry& carry) {
  const uint64_t key = derive_key(dropout_key_, 64 + i);  // apart from the embedding's site
  const auto& layer = layers_[static_cast<size_t>(i)];
  const auto first = [&](const Tensor& x) { return layer->forward(x, input, carry, i, key); };
  const bool may_recompute = checkpoint_every_ > 0 && is_training() && torch::GradMode::is_enabled();
  if (!may_recompute || i % checkpoint_every_ != 0) return first(x_BLD);
  // By value, and without the carry: the backward pass runs when this call is long over.
  const auto again = [layer, input, before = carry.before(i), i, key](const Tensor& x) {
    ReplayCarry replay(before);
    return layer->forward(x, input, replay, i, key);
  };
  return nn::checkpoint(first, again, x_BLD);
}

}  // namespace megalodon
