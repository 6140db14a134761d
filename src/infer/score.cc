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

void score(Model& model, int64_t length, const ReadStretch& read, const UseStretch& use, const ScoreOptions& options) {
  torch::NoGradGuard no_grad;
  check(options.stretch > 0, "[score] stretch: expected at least 1, got {}", options.stretch);
  StreamCarry carry;
  for (int64_t at = 0, end = 0; at < length; at = end) {
    end = at + next_stretch(length - at, options);
    const Stretch stretch = read(at, end - at);
    check(stretch.tokens_BL.sizes() == stretch.targets_BL.sizes(), "[score] tokens and targets must have one shape");
    use(at, stretch, model.nll({stretch.tokens_BL, {}}, stretch.targets_BL, carry));
    if (options.truncate_from > 0 && end >= options.truncate_from && end < length) {
      const int64_t window = std::min(options.window, end);
      StreamCarry fresh;
      model.hidden({read(end - window, window).tokens_BL, {}}, fresh);
      model.replace_norm_statistics(carry, fresh);
    }
  }
}

Tensor score(Model& model, const Tensor& tokens_BL, const Tensor& targets_BL, const ScoreOptions& options) {
  std::vector<Tensor> pieces;
  score(
      model, tokens_BL.size(1),
      [&](int64_t begin, int64_t steps) {
        return Stretch{tokens_BL.narrow(1, begin, steps), targets_BL.narrow(1, begin, steps)};
      },
      [&](int64_t, const Stretch&, const Tensor& nll_BL) { pieces.push_back(nll_BL); }, options);
  return torch::cat(pieces, 1);
}

}  // namespace megalodon
