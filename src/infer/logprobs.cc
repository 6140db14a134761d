#include "infer/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <ranges>

#include "base/check.h"

namespace megalodon {

Tensor float_logits(const Tensor& logits) {
  return logits.detach().to(torch::kCPU, torch::kFloat32).contiguous();
}

int32_t likeliest(std::span<const float> logits_V) {
  int32_t best = -1;
  float highest = -std::numeric_limits<float>::infinity();
  for (size_t v = 0; v < logits_V.size(); ++v) {
    const float logit = logits_V[v];
    if (!(logit <= std::numeric_limits<float>::max())) [[unlikely]]
      fail("[logits] the logits are not finite: {} for token {}", logit, v);
    if (logit > highest) highest = logit, best = static_cast<int32_t>(v);
  }
  check(best >= 0, "[logits] no token is possible: all {} logits are -inf", logits_V.size());
  return best;
}

Logprobs logprobs(std::span<const float> logits_V, int64_t token, int64_t top) {
  const auto vocabulary = static_cast<int64_t>(logits_V.size());
  check(token >= 0 && token < vocabulary, "[logprobs] expected a token from 0 to {}, got {}", vocabulary - 1, token);
  const double highest = logits_V[likeliest(logits_V)];
  double sum = 0;
  for (const float logit : logits_V) sum += std::exp(logit - highest);
  const double log_sum = highest + std::log(sum);

  std::vector<int32_t> order(std::clamp<int64_t>(top, 0, vocabulary));
  std::ranges::partial_sort_copy(std::views::iota(0, static_cast<int32_t>(vocabulary)), order, Likelier{logits_V});
  Logprobs result{logits_V[token] - log_sum, {}};
  for (const int32_t v : order)
    if (std::isfinite(logits_V[v])) result.top.push_back({v, logits_V[v] - log_sum});
  return result;
}

}  // namespace megalodon
