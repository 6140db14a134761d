// Norms of features that a configuration chooses between.
#pragma once

#include <string>

#include "base/compat.h"

namespace megalodon::nn {

/// Layer norm, RMS norm, scale norm (an RMS norm with one weight for all features) or batch norm, over the last axis;
/// batch norm over all others, padding included. Parameters "weight" (stored minus one), "bias", "scalar" (minus one),
/// buffers "running_mean", "running_var", "num_batches_tracked".
class Norm final : public torch::nn::Module {
 public:
  /// `type`: layer, rms, scale or batch.
  Norm(const std::string& type, int64_t dim, double eps, bool affine = true);
  /// Of x's dtype. A batch norm in training moves its running statistics by a tenth.
  Tensor forward(const Tensor& x_BLD);
  void init_weights();

 private:
  Tensor batch_norm(const Tensor& x_BLD);

  std::string type_;
  double eps_;
  Tensor weight_, bias_;
  Tensor running_mean_, running_var_, batches_;
};

}  // namespace megalodon::nn
