// Transformers in Hugging Face folders.
#pragma once

#include "case.h"

namespace megalodon::golden {

/// Import, load, compare logits, in one pass and in a stream, with those that lie beside the weights; where a twin is
/// named and there, its weights must be the same.
void check_hub_checkpoint(const fs::path& folder, Comparer& comparer);

}  // namespace megalodon::golden
