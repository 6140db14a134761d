// Row kernels of the cross entropy: what happens to a block of logits between the matrix products.
#pragma once

#include <cstdint>

namespace megalodon::ops {

constexpr int64_t kIgnoredTarget = -100;  // the value the data sets and torch use for "no loss here"

struct CrossEntropyForwardArgs {
  const float* logits;     // [rows, vocabulary]
  const int64_t* targets;  // [rows], in [0, vocabulary) or kIgnoredTarget
  float* nll;              // [rows]
  float* log_sum;          // [rows] log Σ exp(logit), what the backward needs
  int64_t rows, vocabulary;
};
void cross_entropy_forward_cpu(const CrossEntropyForwardArgs& args);

struct CrossEntropyBackwardArgs {
  float* logits;  // [rows, vocabulary]; becomes (softmax − onehot(target)) · dnll
  const int64_t* targets;
  const float* log_sum;
  const float* dnll;  // [rows]
  int64_t rows, vocabulary;
};
void cross_entropy_backward_cpu(const CrossEntropyBackwardArgs& args);

}  // namespace megalodon::ops
