// Cross entropy of an output projection, without ever holding the [tokens, vocabulary] logits:
//
//   nll_t = log Σ_v exp(x_t · w_v) − x_t · w_target(t)
//
// Forward and backward go over the tokens in blocks; the backward recomputes each block's logits. Float32 softmax.
#pragma once

#include "ops/linear/linear.h"

namespace megalodon::ops {

/// x_BLD (any leading shape), w_VD and targets_BL, int64 in [0, V) or -100 (ignored: nll 0, no gradient). Returns
/// nll_BL in float32 (float64 for float64 input). Products are made in `precision`, or in bfloat16 if x is. `packed`,
/// where given, keeps copies of the weight from call to call. Any other target is an error on the CPU; on a GPU, which
/// would have to be waited for to tell, its loss and gradients are NaN.
Tensor linear_cross_entropy(const Tensor& x_BLD, const Tensor& w_VD, const Tensor& targets_BL,
                            Precision precision = Precision::kFloat32, const PackedWeightPtr& packed = {});

namespace ref {
Tensor linear_cross_entropy(const Tensor& x_BLD, const Tensor& w_VD, const Tensor& targets_BL);
}  // namespace ref

}  // namespace megalodon::ops
