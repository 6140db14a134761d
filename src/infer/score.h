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

/// Some steps of a batch of streams.
struct Stretch {
  Tensor tokens_BL, targets_BL;  // int64
};
using ReadStretch = std::function<Stretch(int64_t begin, int64_t steps)>;
using UseStretch = std::function<void(int64_t begin, const Stretch& stretch, const Tensor& nll_BL)>;

/// Reads streams of `length` steps from `read`, never more than max(stretch, window) steps at once, and gives `use` the
/// negative log likelihoods of the targets given all tokens up to each position: memory does not grow with the length.
void score(Model& model, int64_t length, const ReadStretch& read, const UseStretch& use,
           const ScoreOptions& options = {});

/// The same of tensors: [B,L].
Tensor score(Model& model, const Tensor& tokens_BL, const Tensor& targets_BL, const ScoreOptions& options = {});

}  // namespace megalodon
