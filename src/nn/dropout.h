// Dropout of a model in training.
#pragma once

#include "base/philox.h"
#include "ops/dropout/dropout.h"

namespace megalodon::nn {

/// With a mask of this place's own: `site` tells it from the others that share the key.
inline Tensor drop(const Tensor& x, double p, uint64_t key, uint64_t site, bool training) {
  return training && p > 0 ? ops::dropout(x, p, derive_key(key, site)) : x;
}

struct Dropout {
  double p = 0;
  bool tied = false;  // one mask for all steps of a row
};

/// Of x [B,L,D].
inline Tensor drop(const Tensor& x, const Dropout& dropout, uint64_t key, uint64_t site, bool training) {
  if (!dropout.tied || dropout.p == 0 || !training) return drop(x, dropout.p, key, site, training);
  const auto type = x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const Tensor ones_B1D = torch::ones({x.size(0), 1, x.size(2)}, x.options().dtype(type).requires_grad(false));
  return (x * drop(ones_B1D, dropout.p, key, site, true)).to(x.scalar_type());
}

}  // namespace megalodon::nn
