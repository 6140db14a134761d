// What a row of logits says by itself: the likeliest tokens and log-probabilities.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/compat.h"

namespace megalodon {

/// Logits of any type and device as float32 on the CPU, contiguous; what is that already is not copied.
Tensor float_logits(const Tensor& logits);
/// The numbers of such a tensor, for as long as it lives.
inline std::span<const float> span_of(const Tensor& logits_V) {
  return {logits_V.data_ptr<float>(), static_cast<size_t>(logits_V.numel())};
}

/// Orders tokens by their logits, the likeliest first; of equal ones the lower index comes first.
struct Likelier {
  std::span<const float> logits_V;
  bool operator()(int32_t a, int32_t b) const { return logits_V[a] != logits_V[b] ? logits_V[a] > logits_V[b] : a < b; }
};

/// The first in that order. A logit may be -inf: such a token is impossible. Throws Error where one is NaN or +inf, or
/// where no token is possible.
int32_t likeliest(std::span<const float> logits_V);

struct TokenLogprob {
  int64_t token = 0;
  double logprob = 0;
};

/// Of one token in its row.
struct Logprobs {
  double logprob = 0;             // -inf: the token is impossible
  std::vector<TokenLogprob> top;  // the likeliest of the row, in order; no impossible ones
};

/// Natural logarithms of softmax(logits), in float64: of `token`, and of the `top` likeliest tokens. The logits are the
/// model's own: no temperature, penalty, bias or cut of a sampler has a part in them. Throws Error as likeliest() does,
/// and for a token that is not in the row.
Logprobs logprobs(std::span<const float> logits_V, int64_t token, int64_t top);

}  // namespace megalodon
