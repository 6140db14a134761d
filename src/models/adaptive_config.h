// The configuration of vocabularies in bands (nn/adaptive_vocabulary.h), for language models that may have one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"

namespace megalodon {

struct AdaptiveConfig {
  std::string cutoffs = {};  // "20000,60000"; empty: one band, which is an ordinary vocabulary
  int64_t factor = 4;
  double dropout = 0;

  /// The fields adaptive_cutoffs, adaptive_factor and adaptive_dropout.
  void visit(config::Visitor& visitor);
  /// Throws UsageError naming the fields, as those of [model], that do not fit together, and their values.
  void validate(int64_t vocabulary, int64_t model_dim, bool output_is_embedding) const;
  /// Where the bands begin but the first. Throws UsageError for text that is no such list.
  std::vector<int64_t> bounds(int64_t vocabulary) const;
};

}  // namespace megalodon
