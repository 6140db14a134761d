// Inverted dropout whose mask is a pure function of (key, element index): Philox, see base/philox.h. The backward and
// an activation checkpoint's second forward draw the same mask; nothing but the key has to be stored.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

/// x · mask / (1 − p). p in [0, 1); p = 0 returns x. Call it as ops::dropout: unqualified, at::dropout is found too.
Tensor dropout(const Tensor& x, double p, uint64_t key);

namespace ref {
Tensor dropout(const Tensor& x, double p, uint64_t key);
}  // namespace ref

}  // namespace megalodon::ops
