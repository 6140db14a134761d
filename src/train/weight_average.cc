#include "train/weight_average.h"

#include "models/weights.h"

namespace megalodon {

WeightAverage::WeightAverage(torch::nn::Module& network, double decay) : network_(network), decay_(decay) {
  for (const auto& [name, weight] : named_weights(network_)) averages_.emplace_back(name, weight.detach().clone());
}

void WeightAverage::reset() {
  torch::NoGradGuard no_grad;
  const auto weights = named_weights(network_);
  for (size_t i = 0; i < weights.size(); ++i) averages_[i].second.copy_(weights[i].second);
}

void WeightAverage::update() {
  torch::NoGradGuard no_grad;
  const auto weights = named_weights(network_);
  for (size_t i = 0; i < weights.size(); ++i) averages_[i].second.lerp_(weights[i].second, 1 - decay_);
}

void WeightAverage::exchange() const {
  // The tensors' memory changes hands, nothing is copied.
  torch::NoGradGuard no_grad;
  const auto weights = named_weights(network_);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor weight = weights[i].second, average = averages_[i].second;
    const Tensor held = weight.detach();  // another handle of the same memory
    Tensor(weight).set_data(average.detach());
    Tensor(average).set_data(held);
    torch::autograd::impl::bump_version(weight);  // copies of it are out of date
  }
}

}  // namespace megalodon
