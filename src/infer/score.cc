#include "infer/score.h"

#include <algorithm>

#include "base/check.h"

namespace megalodon {
namespace {

int64_t next_stretch(int64_t left, const ScoreOptions& options) {
  if (left >= options.stretch || options.whole <= 0 || left < options.whole) return std::min(options.stretch, left);
  return left - left % options.whole;
}

}  // namespace

ScoreOptions published_long_inference(const Model& model) {
  const int64_t chunk = model.info().chunk_size;
  check(chunk > 0, "[score] {} has no chunks; the published treatment of long inputs counts in them",
        model.config().architecture());
  return {2 * chunk, 8 * chunk, 6 * chunk, chunk};
}

Tensor score(Model& model, const Tensor& tokens_BL, const Tensor& targets_BL, const ScoreOptions& options,
             const std::function<void(int64_t)>& progress) {
  torch::NoGradGuard no_grad;
  check(tokens_BL.sizes() == targets_BL.sizes(), "[score] tokens and targets must have one shape");
  check(options.stretch > 0, "[score] stretch: expected at least 1, got {}", options.stretch);
  StreamCarry carry;
  std::vector<Tensor> pieces;
  const int64_t length = tokens_BL.size(1);
  for (int64_t at = 0, end = 0; at < length; at = end) {
    const int64_t steps = next_stretch(length - at, options);
    end = at + steps;
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
