// Matrix products of bfloat16 training: inputs of bfloat16, sums of float32.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

/// a [M,K] times b [K,N], both bfloat16, in any layout; returns float32. Partial sums are float32; the result may have
/// been rounded to bfloat16 once.
Tensor bfloat16_product(const Tensor& a_MK, const Tensor& b_KN);
/// The same into `out`, float32 or bfloat16.
void bfloat16_product_out(const Tensor& out_MN, const Tensor& a_MK, const Tensor& b_KN);

}  // namespace megalodon::ops
