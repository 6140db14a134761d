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

#include "io/tensor_file.h"
#include "models/model.h"

namespace megalodon {

class WeightAverage {
 public:
  /// The model must outlive it.
  WeightAverage(Model& model, double decay);

  /// Begins anew at the weights of the model.
  void reset();
  void update();

  /// By the names of the weights.
  const std::vector<std::pair<std::string, Tensor>>& tensors() const { return averages_; }
  /// Throws Error where the file's tensors are not those of the model.
  void load(const io::TensorFile& file);

  /// While it lives, the model has the average for weights.
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

  Model& model_;
  double decay_;
  std::vector<std::pair<std::string, Tensor>> averages_;
};

}  // namespace megalodon
