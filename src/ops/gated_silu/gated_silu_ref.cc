// The specification.
#include "ops/gated_silu/gated_silu.h"

namespace megalodon::ops::ref {

Tensor gated_silu(const Tensor& a, const Tensor& b) {
  const Tensor h = torch::silu(a);
  return b.defined() ? (h * b).to(a.scalar_type()) : h;
}

}  // namespace megalodon::ops::ref
