// An exponential moving average of the weights, in float32, beside the weights that are trained: the model that it
// makes is often the better one.
//
//   average = decay · average + (1 − decay) · weights      after every update that is applied
//
// It begins as the weights of the step that it begins at.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/compat.h"

namespace megalodon {

class WeightAverage {
 public:
  /// The network must outlive it.
  WeightAverage(torch::nn::Module& network, double decay);

  /// Begins anew at the weights of the network.
  void reset();
  void update();

  /// By the names of the weights.
  const std::vector<std::pair<std::string, Tensor>>& tensors() const { return averages_; }

  /// While it lives, the network has the average for weights: to evaluate it, or to load it.
  class Applied {
   public:
    explicit Applied(const WeightAverage& average) : average_(average) { average_.exchange(); }
    ~Applied() { average_.exchange(); }
    Applied(const Applied&) = delete;
    Applied& operator=(const Applied&) = delete;

   private:
    const WeightAverage& average_;
  };

 private:
  void exchange() const;

  torch::nn::Module& network_;
  double decay_;
  std::vector<std::pair<std::string, Tensor>> averages_;
};

}  // namespace megalodon
