// What the CUDA kernels of chunk_attention for many queries and for few have in common.
#pragma once

#include "ops/chunk_attention/chunk_attention_kernel.h"
#include "ops/cuda_kernel.cuh"

namespace megalodon::ops::cuda {

constexpr const char* kOp = "chunk_attention";
constexpr int64_t kMultiprocessors = 132;
constexpr int kWarpsPerBlock = 8;

inline float dropout_keep(const ChunkAttentionArgs& a) { return static_cast<float>(1.0 / (1.0 - a.dropout)); }

/// The forward pass where the queries are few; false: they are not, and nothing was done.
bool chunk_attention_few_forward_cuda(const ChunkAttentionArgs& args, CudaQueue& queue);

}  // namespace megalodon::ops::cuda
