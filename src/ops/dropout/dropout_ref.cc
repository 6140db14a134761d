// The specification: the same mask as the kernel's, as a tensor, times x in float64.
#include "ops/dropout/dropout.h"
#include "ops/dropout/dropout_kernel.h"

namespace megalodon::ops::ref {

Tensor dropout(const Tensor& x, double p, uint64_t key) {
  const Tensor mask = torch::empty(x.sizes(), torch::kFloat64);
  dropout_mask_cpu(mask.data_ptr<double>(), mask.numel(), p, key);
  return (x * mask.to(x.device())).to(x.scalar_type());
}

}  // namespace megalodon::ops::ref
