// Numbers that a network is made with and never learns.
#pragma once

#include <c10/core/InferenceMode.h>

#include "base/compat.h"

namespace megalodon::nn {

/// No parameter and no buffer: it is in no file, and does not go where its network goes. It is brought where it is
/// needed, once, so that the passes after the first wait for nothing. Like a network, of one thread at a time.
class Constant {
 public:
  Constant() = default;
  explicit Constant(Tensor values) : values_(std::move(values)) {}

  bool defined() const { return values_.defined(); }
  /// There and of that type, until somebody else asks otherwise.
  Tensor on(torch::Device device, torch::ScalarType type) const {
    if (!there_.defined() || there_.device() != device || there_.scalar_type() != type) {
      const c10::InferenceMode normal(false);  // an inference tensor could not be kept for a backward pass
      there_ = values_.to(device, type);
    }
    return there_;
  }

 private:
  Tensor values_;
  mutable Tensor there_;
};

}  // namespace megalodon::nn
