#include "train/weight_average.h"

#include "base/check.h"
#include "models/weights.h"

namespace megalodon {

WeightAverage::WeightAverage(Model& model, double decay) : model_(model), decay_(decay) {
  for (const auto& [name, weight] : named_weights(model_)) averages_.emplace_back(name, weight.detach().clone());
}

void WeightAverage::reset() {
  torch::NoGradGuard no_grad;
  const auto weights = named_weights(model_);
  for (size_t i = 0; i < weights.size(); ++i) averages_[i].second.copy_(weights[i].second);
}

void WeightAverage::update() {
  torch::NoGradGuard no_grad;
  const auto weights = named_weights(model_);
  for (size_t i = 0; i < weights.size(); ++i) averages_[i].second.lerp_(weights[i].second, 1 - decay_);
}

void WeightAverage::load(const io::TensorFile& file) {
  // What fits the model fits its average.
  const Applied applied(*this);
  load_weights(model_, file);
}

void WeightAverage::exchange() const {
  // The tensors' memory changes hands, nothing is copied.
  torch::NoGradGuard no_grad;
  const auto weights = named_weights(model_);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor weight = weights[i].second, average = averages_[i].second;
    const Tensor held = weight.detach();  // another handle of the same memory
    Tensor(weight).set_data(average.detach());
    Tensor(average).set_data(held);
    torch::autograd::impl::bump_version(weight);  // copies of it are out of date
  }
}

}  // namespace megalodon
