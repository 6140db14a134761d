// Row kernels of the cross entropy: what happens to a block of logits between the matrix products.
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

constexpr int64_t kIgnoredTarget = -100;  // the value the data sets and torch use for "no loss here"

struct CrossEntropyForwardArgs {
  const float* logits;     // [rows, vocabulary]
  const int64_t* targets;  // [rows], in [0, vocabulary) or kIgnoredTarget; cuda: anything else makes nll NaN
  float* nll;              // [rows]
  float* log_sum;          // [rows] log Σ exp(logit), what the backward needs
  int64_t rows, vocabulary;
};
void cross_entropy_forward_cpu(const CrossEntropyForwardArgs& args);
void cross_entropy_forward_cuda(const CrossEntropyForwardArgs& args, CudaQueue& queue);

struct CrossEntropyBackwardArgs {
  const float* logits;  // [rows, vocabulary]
  const int64_t* targets;
  const float* log_sum;
  const float* dnll;  // [rows]
  void* dlogits;      // [rows, vocabulary] (softmax − onehot(target)) · dnll; may be logits, which the CPU's is
  NumberType dlogits_type;  // the CPU's is float32
  int64_t rows, vocabulary;
};
void cross_entropy_backward_cpu(const CrossEntropyBackwardArgs& args);
void cross_entropy_backward_cuda(const CrossEntropyBackwardArgs& args, CudaQueue& queue);

}  // namespace megalodon::ops
