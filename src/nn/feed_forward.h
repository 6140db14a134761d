// A feed-forward block around which a residual stream goes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/dropout.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace megalodon::nn {

/// silu, gelu or relu.
Tensor activate(const std::string& name, const Tensor& x);

struct FeedForwardConfig {
  int64_t dim = 0, hidden = 0;
  std::string activation = "silu", norm = "layer";
  bool prenorm = true;
  double norm_eps = 1e-5;
  Dropout hidden_dropout = {}, dropout = {};  // on act(…), on W2 …
  std::string init = "bert";                  // of init_linear()
};

/// x + W2 act(W1 norm(x) + b1) + b2, or the norm behind the sum. Parameters "norm.*", "fc1.*", "fc2.*".
class FeedForward final : public torch::nn::Module {
 public:
  explicit FeedForward(const FeedForwardConfig& config);
  Tensor forward(const Tensor& x_BLD, uint64_t dropout_key);
  void init_weights(uint64_t key);
  void set_precision(Precision precision) { precision_ = precision; }
  std::vector<Linear*> linears() { return {&fc1_, &fc2_}; }

 private:
  FeedForwardConfig config_;
  Precision precision_ = Precision::kFloat32;
  std::shared_ptr<Norm> norm_;
  Linear fc1_, fc2_;
};

}  // namespace megalodon::nn
