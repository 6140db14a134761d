// Dropout of a model in training.
#pragma once

#include "base/philox.h"
#include "ops/dropout/dropout.h"

namespace megalodon::nn {

/// With a mask of this place's own: `site` tells it from the others that share the key.
inline Tensor drop(const Tensor& x, double p, uint64_t key, uint64_t site, bool training) {
  return training && p > 0 ? ops::dropout(x, p, derive_key(key, site)) : x;
}

}  // namespace megalodon::nn
