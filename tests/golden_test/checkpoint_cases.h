// Published checkpoint folders and the parameter lists of the published configurations.
#pragma once

#include "case.h"

namespace megalodon::golden {

/// What makes the tensors of two files different, in whatever order they are, or "". A buffer (rotary frequencies,
/// priors) of the second may be wider than that of the first.
std::string difference(const io::TensorFile& a, const io::TensorFile& b);

/// Import, load, compare logits with those of the case among `stems` that has the same configuration and weights;
/// export, import again, compare bit by bit.
void check_checkpoint(const fs::path& folder, const std::vector<fs::path>& stems, Comparer& comparer);

/// One entry of state_dict_keys.json against our preset of that name.
void check_preset(const std::string& name, const Json& published, Comparer& comparer);

}  // namespace megalodon::golden
