#include "ops/bfloat16_product.h"

#include "base/check.h"

namespace megalodon::ops {
namespace {

/// Whether libtorch gives the product to oneDNN. Its own loop, for small matrices and older CPUs, rounds every partial
/// sum to bfloat16 (libtorch 1.13: 512 ones add up to 256), and is slow besides.
bool is_left_to_onednn(const Tensor& a_MK, const Tensor& b_KN) {
#if defined(__x86_64__)
  static const bool cpu =
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  static const bool cpu = false;
#endif
  constexpr int64_t kSmall = 16 * 16 * 16;
  return cpu && at::globalContext().hasMKLDNN() && at::globalContext().userEnabledMkldnn() &&
         a_MK.numel() * b_KN.size(1) > kSmall;
}

/// Float32, or bfloat16 where oneDNN made it.
Tensor product(const Tensor& a_MK, const Tensor& b_KN) {
  check(a_MK.scalar_type() == torch::kBFloat16 && b_KN.scalar_type() == torch::kBFloat16,
        "[bfloat16_product] a and b must be bfloat16, got {} and {}", toString(a_MK.scalar_type()),
        toString(b_KN.scalar_type()));
  if (is_left_to_onednn(a_MK, b_KN)) return at::mm(a_MK, b_KN);
  return at::mm(a_MK.to(torch::kFloat32), b_KN.to(torch::kFloat32));  // where products of bfloat16 numbers are exact
}

}  // namespace

Tensor bfloat16_product(const Tensor& a_MK, const Tensor& b_KN) {
  return product(a_MK, b_KN).to(torch::kFloat32);
}

void bfloat16_product_out(const Tensor& out_MN, const Tensor& a_MK, const Tensor& b_KN) {
  out_MN.copy_(product(a_MK, b_KN));
}

}  // namespace megalodon::ops
