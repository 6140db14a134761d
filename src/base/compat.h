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
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#endif
#include <ATen/Context.h>

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

#define MEGALODON_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) || (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

/// Whether PyTorch has flash attention on a GPU, for bfloat16 and K = V up to 256.
inline constexpr bool kHasFlashAttention = MEGALODON_TORCH_AT_LEAST(2, 1);

/// softmax(scale · q kᵀ) v of q [..,L,K], k [..,J,K] and v [..,J,V]; causal: of the keys up to the query. On a GPU it
/// is flash attention, and nothing that PyTorch would choose instead.
inline Tensor flash_attention_of_torch(const Tensor& q, const Tensor& k, const Tensor& v, double scale, bool causal) {
#if MEGALODON_TORCH_AT_LEAST(2, 1)
  if (q.is_cuda())
    return std::get<0>(at::_scaled_dot_product_flash_attention(q, k, v, /*dropout_p=*/0.0, causal,
                                                               /*return_debug_mask=*/false, scale));
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

/// From 2.2, where deterministic algorithms are asked for, PyTorch fills all new memory too, unless told otherwise.
inline bool fills_new_memory() {
#if MEGALODON_TORCH_AT_LEAST(2, 2)
  return at::globalContext().deterministicFillUninitializedMemory();
#else
  return false;
#endif
}
inline void set_fills_new_memory([[maybe_unused]] bool fills) {
#if MEGALODON_TORCH_AT_LEAST(2, 2)
  at::globalContext().setDeterministicFillUninitializedMemory(fills);
#endif
}

}  // namespace megalodon
