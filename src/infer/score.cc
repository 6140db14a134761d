#include "infer/score.h"

#include <algorithm>

#include "base/check.h"

namespace megalodon {

Tensor score(Model& model, const Tensor& tokens_BL, const Tensor& targets_BL, const ScoreOptions& options,
             const std::function<void(int64_t)>& progress) {
  torch::NoGradGuard no_grad;
  check(tokens_BL.sizes() == targets_BL.sizes(), "[score] tokens and targets must have one shape");
  check(options.stretch > 0, "[score] stretch: expected at least 1, got {}", options.stretch);
  StreamCarry carry;
  std::vector<Tensor> pieces;
  const int64_t length = tokens_BL.size(1);
  for (int64_t at = 0; at < length; at += options.stretch) {
    const int64_t steps = std::min(options.stretch, length - at), end = at + steps;
    pieces.push_back(model.nll({tokens_BL.narrow(1, at, steps), {}}, targets_BL.narrow(1, at, steps), carry));
    if (options.truncate_from > 0 && end >= options.truncate_from && end < length) {
      const int64_t window = std::min(options.window, end);
      StreamCarry fresh;
      model.hidden({tokens_BL.narrow(1, end - window, window), {}}, fresh);
      model.replace_norm_statistics(carry, fresh);
    }
    if (progress) progress(end);
  }
  return torch::cat(pieces, 1);
}

}  // namespace megalodon
