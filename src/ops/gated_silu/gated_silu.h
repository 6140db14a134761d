// The gate of a feed-forward layer, h = silu(a) ⊙ b, silu(a) = a · sigmoid(a), fused: one pass forward, one backward,
// and only a and b are kept (the composition would keep silu(a) too and make five passes).
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

/// a and b of one shape and dtype, or a bfloat16 and b float32; b may be undefined: silu(a). h is of a's dtype.
Tensor gated_silu(const Tensor& a, const Tensor& b);

namespace ref {
Tensor gated_silu(const Tensor& a, const Tensor& b);
}  // namespace ref

}  // namespace megalodon::ops
