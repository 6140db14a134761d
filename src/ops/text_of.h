// Tensors in error messages.
#pragma once

#include <string>

#include "base/check.h"
#include "base/compat.h"

namespace megalodon::ops {

/// Dtype and shape, "nothing" where undefined.
inline std::string text_of(const Tensor& t) {
  return t.defined() ? fmt::format("{} [{}]", toString(t.scalar_type()), fmt::join(t.sizes(), ",")) : "nothing";
}

}  // namespace megalodon::ops
