// Matrices that do not change any more, as a trained model's: W [O,I] in few bytes, in the order in which products read
// it, and y = x Wᵀ (+ bias) (+ addend) with float32 x and y. A product with few rows of x takes the time of reading W
// from memory.
//
//   type       bits a weight   a weight is                    x is
//   float32    32              itself                         itself
//   bfloat16   16              rounded to the nearest         rounded to bfloat16
//   q8         8.5             s · c, c = −127..127           integers
//   q4         5               m + s · c, c = 0..15           integers
//
// s and m belong to a row and 32 inputs of it, and are bfloat16 numbers: the range of float32 without its digits, which
// c makes up for, being chosen for s and m as they are stored. "Integers" are magnitudes of up to 127 times a float32
// scale of a row of x and 32 inputs. Sums are float32. A row's result depends on nothing but the row and W: not on the
// other rows, nor on the number of threads. (With more than kFewRows rows, float32 and bfloat16, and on a GPU q8 and q4
// too, are left to the library's products, ops/linear, which promise that only up to rounding.) Where x is not finite,
// its row of y is not.
//
// A GPU gives what the CPU gives, up to the order of the sums; but with more than kFewRows rows it multiplies q8 and q4
// as bfloat16 numbers: x, and W as it is restored, each rounded to the nearest.
//
// Errors. q8: |w − s c| <= s/2, s <= 1.008 a/127, where a is the largest magnitude of the 32 inputs. q4: <= s/2,
// s <= 1.008 (largest − least + |least|/128)/15. Integers of x: 1/254 of the largest magnitude of the 32. Both as
// bfloat16: 1/512 of x itself, and 1/512 of the weight.
//
// The stored bytes are the same on all processors, little-endian, and can be mapped from a file: at a multiple of 4, on
// a GPU of 16, best of 64. Blocks of R rows follow each other; in a block records of K inputs (records = ceil(I/K));
// what W does not have is 0.
//
//   type       R    K    bytes of a record
//   float32    64   16   4096: float32 [16 inputs][64 rows]
//   bfloat16   64   32   4096: bfloat16 [16][64 rows][2], inputs 2k and 2k + 1 beside each other
//   q8         16   64   1088: bfloat16 [16 rows][2], s of the inputs 0..31 and 32..63; then c + 128 as
//                              uint8 [16][16 rows][4], inputs 4k..4k + 3 beside each other
//   q4         16   32   320:  bfloat16 [16 rows][2], m and s; then uint8 [4][16 rows][4], in byte j of the k-th four c
//   of
//                              input 4k + j, and in its upper half that of input 16 + 4k + j
#pragma once

#include "base/compat.h"
#include "ops/fixed_matrix/fixed_matrix_kernel.h"

namespace megalodon::ops {

/// Cheap to copy: copies share the bytes.
class FixedMatrix {
 public:
  FixedMatrix() = default;
  /// Of bytes as above, a contiguous uint8 tensor on the CPU or an NVIDIA GPU, which may be memory that somebody else
  /// owns (torch::from_blob) and has to outlive this. Throws where there are not exactly as many as W takes.
  FixedMatrix(FixedType type, int64_t O, int64_t I, Tensor bytes);

  bool defined() const { return bytes_.defined(); }
  FixedType type() const { return type_; }
  int64_t outputs() const { return O_; }
  int64_t inputs() const { return I_; }
  const Tensor& bytes() const { return bytes_; }
  torch::Device device() const { return bytes_.device(); }
  /// There, with the same bytes: copied where they lie elsewhere.
  FixedMatrix to(torch::Device device) const { return {type_, O_, I_, bytes_.to(device)}; }
  /// For kernels of its device.
  FixedView view() const { return {type_, O_, I_, bytes_.data_ptr<uint8_t>()}; }

 private:
  FixedType type_ = FixedType::kFloat32;
  int64_t O_ = 0, I_ = 0;
  Tensor bytes_;
};

/// "float32", "bfloat16", "q8" or "q4".
const char* name_of(FixedType type);
/// Throws for any other name.
FixedType fixed_type(const std::string& name);

/// w [O,I] is float32 or bfloat16, on the CPU; refused where a number is not finite or of a magnitude above 1e38.
FixedMatrix fix_matrix(const Tensor& w_OI, FixedType type);
/// Whether bytes that somebody else made stand for numbers that fix_matrix() takes, which are finite.
bool is_finite(const FixedMatrix& w);
/// The numbers that are stored, as float32 [O,I] on w's device.
Tensor restore_matrix(const FixedMatrix& w);

/// x [..,I]; bias [O] and addend [..,O], or undefined; all float32 and on w's device. Not differentiable.
Tensor fixed_linear(const Tensor& x, const FixedMatrix& w, const Tensor& bias = {}, const Tensor& addend = {});
/// The same into y [..,O], float32, contiguous and there too.
void fixed_linear_into(const Tensor& y, const Tensor& x, const FixedMatrix& w, const Tensor& bias,
                       const Tensor& addend);

namespace ref {
Tensor restore_matrix(const Tensor& w_OI, FixedType type);  // of a matrix that is stored in that type
Tensor fixed_linear(const Tensor& x, const FixedMatrix& w, const Tensor& bias = {}, const Tensor& addend = {});
}  // namespace ref

}  // namespace megalodon::ops
