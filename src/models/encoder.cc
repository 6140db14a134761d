#include "models/encoder.h"

#include "base/philox.h"
#include "nn/dropout.h"

namespace megalodon {

Tensor zero_padding(const Tensor& x_BLD, const Tensor& padding_BL) {
  return padding_BL.defined() ? x_BLD.masked_fill(padding_BL.unsqueeze(2), 0) : x_BLD;
}

LayeredEncoder::LayeredEncoder(int64_t model_dim, double dropout)
    : model_dim_(model_dim),
      dropout_(dropout),
      list_(register_module("layers", std::make_shared<torch::nn::Module>())) {}

void LayeredEncoder::add_layer(std::shared_ptr<StackedLayer> layer) {
  layers_.push_back(list_->register_module(std::to_string(layers_.size()), std::move(layer)));
}

Tensor LayeredEncoder::forward(const Tensor& x_BLD, const Tensor& padding_BL, uint64_t dropout_key) {
  NoCarry whole;
  Tensor y_BLD = nn::drop(zero_padding(x_BLD, padding_BL), dropout_, dropout_key, layers_.size(), is_training());
  for (size_t i = 0; i < layers_.size(); ++i)
    y_BLD = layers_[i]->forward(y_BLD, {{}, {}, padding_BL}, whole, 0, derive_key(dropout_key, i));
  return zero_padding(final_norm(y_BLD, padding_BL), padding_BL);
}

void LayeredEncoder::init_weights(uint64_t seed) {
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i]->init_weights(derive_key(seed, i));
}

void LayeredEncoder::set_precision(nn::Precision precision) {
  for (const auto& layer : layers_) layer->set_precision(precision);
}

}  // namespace megalodon
