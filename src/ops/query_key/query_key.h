// What attention makes of its shared projection z before it multiplies, in one pass over memory: a norm without weights
// per head, then an affine map and a rotation each for the queries (i = 0) and the keys (i = 1):
//   u = z / sqrt(mean(z²) + eps)                          over the K features of a head
//   y_i = rotary(u ⊙ scale_i + shift_i, position, base)
// Everything is float32 inside. Z = H·K.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

struct QueryKey {
  Tensor q_BLHK, k_BLHK;
};

/// K even. scale and shift as they are, not minus one. position_BL: int64 >= 0 (checked on the CPU only). The results
/// are of z's dtype unless told otherwise.
QueryKey query_key(const Tensor& z_BLHK, const Tensor& scale_2Z, const Tensor& shift_2Z, const Tensor& position_BL,
                   double eps, double base, std::optional<torch::ScalarType> y_type = {});

namespace ref {
QueryKey query_key(const Tensor& z_BLHK, const Tensor& scale_2Z, const Tensor& shift_2Z, const Tensor& position_BL,
                   double eps, double base);
}  // namespace ref

}  // namespace megalodon::ops
