// The specification of query_key as tensor operations, for any device and dtype.
#include "ops/query_key/query_key.h"
#include "ops/rotary/rotary.h"
#include "ops/row_norm/row_norm.h"

namespace megalodon::ops::ref {

QueryKey query_key(const Tensor& z_BLHK, const Tensor& scale_2Z, const Tensor& shift_2Z, const Tensor& position_BL,
                   double eps, double base) {
  const auto heads = {int64_t{2}, z_BLHK.size(2), z_BLHK.size(3)};
  const Tensor scale_2HK = scale_2Z.to(z_BLHK.scalar_type()).reshape(heads);
  const Tensor shift_2HK = shift_2Z.to(z_BLHK.scalar_type()).reshape(heads);
  const Tensor unit_BLHK = ref::rms_norm(z_BLHK, {}, eps);
  const auto query_or_key = [&](int64_t i) {
    return ref::rotary(torch::addcmul(shift_2HK[i], unit_BLHK, scale_2HK[i]), position_BL, base);
  };
  return {query_or_key(0), query_or_key(1)};
}

}  // namespace megalodon::ops::ref
