// Kernels of gated_silu; with s = sigmoid(a):
//
//   h = a s b        da = dh b s (1 + a (1 − s))        db = dh a s
#pragma once

#include <cstdint>

namespace megalodon::ops {

struct GatedSiluForwardArgs {
  const float* a;
  const float* b;  // null: 1
  float* h;
  int64_t size;
};
void gated_silu_forward_cpu(const GatedSiluForwardArgs& args);

struct GatedSiluBackwardArgs {
  const float* a;
  const float* b;  // null: 1
  const float* dh;
  float* da;
  float* db;  // null exactly where b is
  int64_t size;
};
void gated_silu_backward_cpu(const GatedSiluBackwardArgs& args);

}  // namespace megalodon::ops
