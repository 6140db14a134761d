// Likelihoods of long sequences: one stream, constant memory.
#pragma once

#include <functional>

#include "models/model.h"

namespace megalodon {

struct ScoreOptions {
  int64_t stretch = 2048;  // tokens per call
  /// The published evaluator's treatment of long inputs: once a stretch ends at or after `truncate_from` tokens and tokens
  /// remain, all norm statistics are replaced by those of a fresh pass over the last `window` tokens. 0: off.
  int64_t truncate_from = 0, window = 0;
};

/// [B,L] negative log likelihoods of targets_BL given all tokens up to each position.
Tensor score(Model& model, const Tensor& tokens_BL, const Tensor& targets_BL, const ScoreOptions& options = {},
             const std::function<void(int64_t done)>& progress = {});

}  // namespace megalodon
