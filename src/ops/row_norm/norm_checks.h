// Checks that the norms share.
#pragma once

#include <string>

#include "base/check.h"
#include "base/compat.h"

namespace megalodon::ops {

inline std::string describe(const Tensor& t) {
  return fmt::format("{} [{}] on {}", c10::toString(t.scalar_type()), fmt::join(t.sizes(), ","), t.device().str());
}

/// Types computed in float32: statistics of bfloat16 numbers rounded to bfloat16 would be useless.
inline bool is_reduced(const Tensor& x) {
  return x.scalar_type() == torch::kBFloat16 || x.scalar_type() == torch::kFloat16;
}

inline void check_norm_input(const char* op, const Tensor& x, int64_t dimensions, double eps) {
  check(x.defined() && x.is_floating_point(), "[{}] x must be a tensor of floating point numbers, got {}", op,
        x.defined() ? describe(x) : "nothing");
  check(dimensions < 0 ? x.dim() > 0 : x.dim() == dimensions, "[{}] x must have {} axes, got {}", op,
        dimensions < 0 ? "one or more" : std::to_string(dimensions), describe(x));
  check(eps > 0, "[{}] eps must be positive, got {}", op, eps);
}

/// An undefined tensor passes.
inline void check_norm_argument(const char* op, const char* name, const Tensor& t, at::IntArrayRef sizes,
                                const Tensor& x) {
  check(!t.defined() || (t.sizes() == sizes && t.device() == x.device()), "[{}] {} must be [{}] on {}, got {}", op,
        name, fmt::join(sizes, ","), x.device().str(), t.defined() ? describe(t) : "nothing");
}

inline void check_norm_parameter(const char* op, const char* name, const Tensor& t, const Tensor& x) {
  check_norm_argument(op, name, t, {x.size(-1)}, x);
  check(!t.defined() || t.is_floating_point(), "[{}] {} must be of floating point numbers, got {}", op, name,
        t.defined() ? describe(t) : "nothing");
}

/// One bool for every step of x_BLD.
inline void check_norm_flags(const char* op, const char* name, const Tensor& t, const Tensor& x_BLD) {
  check_norm_argument(op, name, t, x_BLD.sizes().slice(0, 2), x_BLD);
  check(!t.defined() || t.scalar_type() == torch::kBool, "[{}] {} must be bool, got {}", op, name,
        t.defined() ? describe(t) : "nothing");
}

inline void check_norm_groups(const char* op, const Tensor& x_BLD, int64_t groups) {
  check(groups > 0 && x_BLD.size(2) > 0 && x_BLD.size(2) % groups == 0,
        "[{}] groups must divide the {} features of x, got {} groups", op, x_BLD.size(2), groups);
}

/// As kernels read weights: float32, in one piece; undefined stays undefined.
inline Tensor as_float32(const Tensor& t) {
  return t.defined() ? t.to(torch::kFloat32).contiguous() : t;
}

template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data_ptr<T>() : nullptr;
}

}  // namespace megalodon::ops
