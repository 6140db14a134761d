// Presets that are one architecture in several sizes: those called FAMILY-SIZE, such as llama2-11M and llama2-7B.
#pragma once

#include <memory>
#include <string>

#include "models/model.h"

namespace megalodon {

/// A preset with the vocabulary that was asked for.
struct FittedPreset {
  std::string name;
  std::shared_ptr<const ModelConfig> config;
  ModelInfo info;
};

/// The preset called `name`, or of the family `name` the one that has nearest to so many parameters, with a vocabulary
/// of `vocabulary` tokens; whether its output matrix is its embedding stays as it is. Throws UsageError where there is
/// no such preset or family, or none of the family is within a tenth of that many parameters; it lists what there is.
FittedPreset fit_preset(const std::string& name, int64_t vocabulary, int64_t parameters);

}  // namespace megalodon
