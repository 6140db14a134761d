// Matrix products on NVIDIA GPUs, for whatever is made of them: linear layers, attention scores, vocabulary logits.
// No CUDA header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

/// Rows in device memory, one after the other, or far apart.
struct CudaMatrix {
  const void* data = nullptr;
  NumberType type = NumberType::kFloat32;
  int64_t stride = 0;        // elements from row to row of what is stored
  bool transposed = false;   // read as its transpose: stored as [columns, rows]
  int64_t batch_stride = 0;  // elements from one matrix of the batch to the next; 0: all are the same
};

/// d = alpha · a b + beta · c + bias, for each matrix of the batch. Sums are float32 of exact products, never TF32. a
/// and b are both bfloat16 or both float32; d is float32, or bfloat16 where they are.
struct CudaProduct {
  int64_t batch = 1, M = 0, N = 0, K = 0;
  CudaMatrix a;  // [M,K]
  CudaMatrix b;  // [K,N]
  void* d = nullptr;
  NumberType d_type = NumberType::kFloat32;
  int64_t d_stride = 0, d_batch_stride = 0;
  const void* c = nullptr;  // of d's type; null: beta counts as 0. d itself, with d's strides, is accumulated into
  int64_t c_stride = 0, c_batch_stride = 0;
  const void* bias = nullptr;  // [N], of d's type, of all matrices; null: none
  float alpha = 1, beta = 0;
};

/// What an algorithm may want for partial sums.
constexpr size_t kCudaProductWorkspace = size_t{32} << 20;

/// Any sizes and strides work; multiples of 8 elements, 16 bytes aligned, are fast. `workspace` holds
/// kCudaProductWorkspace bytes, aligned to 256; null: scratch memory of the queue, should the algorithm want any. Who
/// does many products with one queue gives his own, for scratch memory piles up until the queue is gone.
void cuda_product(const CudaProduct& product, CudaQueue& queue, void* workspace = nullptr);

/// Whether cuBLASLt does all of it, bias included. Elsewhere cuda_product() is right, but slower.
bool cuda_product_is_fast(const CudaProduct& product);

}  // namespace megalodon::ops
