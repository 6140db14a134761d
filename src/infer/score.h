// Likelihoods of long sequences: one stream, whose activations do not grow with the length.
#pragma once

#include <functional>

#include "models/model.h"

namespace megalodon {

struct ScoreOptions {
  int64_t stretch = 2048;  // tokens per call
  /// The published evaluator's treatment of long inputs: once a stretch ends at or after `truncate_from` tokens and
  /// tokens remain, all norm statistics are replaced by those of a fresh pass over the last `window` tokens. 0: off.
  int64_t truncate_from = 0, window = 0;
  /// Of a last stretch that is short, the largest multiple of this is read first and the rest by itself. 0: off.
  int64_t whole = 0;
};

/// What the published evaluator does with long inputs: calls of two chunks, and from the eighth chunk on the norm
/// statistics of the last six. Throws Error for architectures without chunks.
ScoreOptions published_long_inference(const Model& model);

/// [B,L] negative log likelihoods of targets_BL given all tokens up to each position.
Tensor score(Model& model, const Tensor& tokens_BL, const Tensor& targets_BL, const ScoreOptions& options = {},
             const std::function<void(int64_t done)>& progress = {});

}  // namespace megalodon
