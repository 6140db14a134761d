// Models from cases.
#pragma once

#include <memory>

#include "case.h"

namespace megalodon::golden {

/// The model of a case with the case's weights, in evaluation mode.
std::unique_ptr<Model> build_model(const Case& source, torch::ScalarType dtype = torch::kFloat32);

/// Logits of a case whose values are informative (bfloat16), against those of the original's bfloat16 runs.
void inform_logits(const Case& source, Comparer& comparer, const Tensor& logits_BLV);

}  // namespace megalodon::golden
