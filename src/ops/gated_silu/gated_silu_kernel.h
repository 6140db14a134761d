// Kernels of gated_silu; with s = sigmoid(a):
//
//   h = a s b        da = dh b s (1 + a (1 − s))        db = dh a s
#pragma once

#include <cstdint>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

/// a, h, dh and da are of a_type, b and db of b_type. Either both are float32, or a_type is bfloat16.
struct GatedSiluForwardArgs {
  NumberType a_type, b_type;
  const void* a;
  const void* b;  // null: 1
  void* h;
  int64_t size;
};
void gated_silu_forward_cpu(const GatedSiluForwardArgs& args);
void gated_silu_forward_cuda(const GatedSiluForwardArgs& args, CudaQueue& queue);

struct GatedSiluBackwardArgs {
  NumberType a_type, b_type;
  const void* a;
  const void* b;  // null: 1
  const void* dh;
  void* da;
  void* db;  // null exactly where b is
  int64_t size;
};
void gated_silu_backward_cpu(const GatedSiluBackwardArgs& args);
void gated_silu_backward_cuda(const GatedSiluBackwardArgs& args, CudaQueue& queue);

}  // namespace megalodon::ops
