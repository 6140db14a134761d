// Every difference between the libtorch versions we build against (1.13 of Debian 12, any 2.x) is settled here.
#pragma once

// Not <torch/torch.h>: all of it would make every file's compilation twice as long.
#include <torch/autograd.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <torch/version.h>

#if TORCH_VERSION_MAJOR < 2
#include <ATen/ops/_scaled_dot_product_attention.h>
#else
#include <ATen/ops/scaled_dot_product_attention.h>
#endif

#include <cmath>
#include <optional>
#include <tuple>

namespace megalodon {

using torch::Tensor;

/// What operator schemas call "Tensor?": c10::optional in 1.13, std::optional in 2.x, under one name.
using OptionalTensor = c10::optional<Tensor>;

inline OptionalTensor maybe(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : OptionalTensor();
}
inline Tensor or_undefined(const OptionalTensor& tensor) {
  return tensor.has_value() ? *tensor : Tensor();
}

/// softmax(scale · q kᵀ) v of q [..,L,K], k [..,J,K] and v [..,J,V]; causal: of the keys up to the query. On a GPU
/// PyTorch 2 has flash attention for it, of bfloat16 and K = V up to 256.
inline constexpr bool kHasFlashAttention = TORCH_VERSION_MAJOR >= 2;
inline Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale,
                                           bool causal) {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
  return at::scaled_dot_product_attention(q, k, v, {}, /*dropout_p=*/0.0, causal, scale);
#else
  const Tensor scaled_q = q * (scale * std::sqrt(static_cast<double>(q.size(-1))));  // theirs is 1/√K
#if TORCH_VERSION_MAJOR == 2
  return at::scaled_dot_product_attention(scaled_q, k, v, {}, /*dropout_p=*/0.0, causal);
#else
  return std::get<0>(at::_scaled_dot_product_attention(scaled_q, k, v, {}, /*dropout_p=*/0.0,
                                                       /*need_attn_weights=*/false, causal));
#endif
#endif
}

}  // namespace megalodon
