// Dense matrix products, which are most of a training step's time. On the CPU they go to oneDNN
// (matrix_product_onednn.cc), which on x86 is twice as fast as the tensor library's own; where the build found no
// oneDNN, to the tensor library (matrix_product_torch.cc). On a GPU they go to cuBLASLt (matrix_product_cuda.cc), which
// reads matrices in any order: nothing is packed there, and one rounded copy of a weight serves all products. Inputs
// are float32 or bfloat16, sums are float32 in either case.
//
// Measured on 2 cores of an AMD EPYC (Zen 4), x [2048,384], W [1024,384], GFLOP/s in bfloat16 and in float32:
//   packed W, either side       760   390      a plain transposed W        640   350
//   dW and db in one            606   304      dW as a plain product       607   341
// Rows of the output type (float32 or bfloat16) make no difference.
#pragma once

#include <memory>

#include "base/compat.h"

namespace megalodon::ops {

/// What the processor multiplies bfloat16 numbers in: bfloat16, or float32 where it has no instructions for them (the
/// numbers are rounded to bfloat16 first, so results are the same up to the order of the sums).
torch::ScalarType bfloat16_product_type();

/// A right-hand side in the order in which products read it fastest.
class PackedMatrix {
 public:
  class Factor;
  PackedMatrix() = default;
  explicit PackedMatrix(std::shared_ptr<const Factor> factor) : factor_(std::move(factor)) {}
  /// Of b [K,N], two-dimensional with either axis contiguous, rounded to `type`: float32 or bfloat16.
  PackedMatrix(const Tensor& b_KN, torch::ScalarType type);
  /// b itself, without a copy: float32, for a pass that would use it once, or on a GPU also bfloat16.
  static PackedMatrix as_it_is(const Tensor& b_KN);
  /// Of bfloat16 numbers in the order [N/64][K/32][16][64][2]: pairs of rows of b, 64 columns each, filled up with
  /// zeros to whole blocks. Read as they are, without a copy; only where bfloat16_product_type() is bfloat16.
  static PackedMatrix in_blocks(const Tensor& bytes, int64_t K, int64_t N);
  bool defined() const { return factor_ != nullptr; }

  /// out = a b (+ bias) (+ addend). a is [M,K] of any floating type and rounded to the matrix' own; out is [M,N],
  /// float32 or bfloat16, with contiguous rows (on a GPU one after the other); bias is [N], float32, or undefined;
  /// addend is like out in shape, not in memory, or undefined.
  void multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N = {},
                const Tensor& addend_MN = {}) const;

 private:
  std::shared_ptr<const Factor> factor_;
};

/// What a library keeps of b.
class PackedMatrix::Factor {
 public:
  virtual ~Factor() = default;
  virtual void multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N,
                        const Tensor& addend_MN) const = 0;
};

inline void PackedMatrix::multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N,
                                   const Tensor& addend_MN) const {
  factor_->multiply(out_MN, a_MK, bias_N, addend_MN);
}

/// dw = dyᵀ x, or dw += dyᵀ x, and db = Σ dy (may be undefined). dy [M,O] and x [M,I] are both float32 or both
/// bfloat16; dw [O,I] and db [O] are float32 and contiguous.
void weight_gradient(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                     bool accumulate = false);

// ---- of the libraries, for matrix_product.cc alone ---------------------------------------------------------------

using FactorPtr = std::shared_ptr<const PackedMatrix::Factor>;

/// By oneDNN or the tensor library, whichever the build has.
FactorPtr pack_cpu(const Tensor& b_KN, torch::ScalarType type);
FactorPtr wrap_cpu(const Tensor& b_KN);
FactorPtr wrap_blocks_cpu(const Tensor& bytes, int64_t K, int64_t N);
void weight_gradient_cpu(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                         bool accumulate);

/// By cuBLASLt.
FactorPtr wrap_cuda(const Tensor& b_KN);
void weight_gradient_cuda(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                          bool accumulate);

}  // namespace megalodon::ops
