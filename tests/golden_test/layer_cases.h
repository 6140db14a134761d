// The cache of a layer, as the cases name its parts.
#pragma once

#include "case.h"

namespace megalodon::golden {

/// From <prefix>norm.*, hx and attn.*; alpha_DN1 is the layer's CEMA parameter.
MegalodonLayerState read_cache(const Pass& pass, const std::string& prefix, const Tensor& alpha_DN1);
/// Compares with out.<prefix>…
void compare_cache(Pass& pass, const std::string& prefix, const MegalodonLayerState& state, const Tensor& alpha_DN1);

}  // namespace megalodon::golden
