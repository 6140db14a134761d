// Rotary position embedding (Su et al., 2021): the adjacent pair (2i, 2i+1) of each head is rotated by
// position · base^(−2i/head_dim). Angles are float32 whatever narrower dtype x has (float64 for float64 x); the
// published code lets the frequencies be rounded to bfloat16 with the model, we do not.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

/// x_BLHK: K even. position_BL: int64 >= 0, counted from the start of the step's chunk. (Checked on the CPU only: a
/// look at numbers of a GPU would wait for it.)
Tensor rotary(const Tensor& x_BLHK, const Tensor& position_BL, double base);
/// The same with angles position · frequency_K, [K/2].
Tensor rotary_with_frequencies(const Tensor& x_BLHK, const Tensor& position_BL, const Tensor& frequency_K);

/// base^(−2i/K), i = 0..K/2−1, as float32: 1 / float(base^(2i/K)), the rounding of the published code. Made once per
/// (K, base, device) and kept: not to be written to.
Tensor rotary_frequencies(int64_t head_dim, double base, torch::Device device = torch::kCPU);

/// Checks the positions of x_BLHK, an input of `op`, and that K is even. Returns them on x's device, in one piece.
Tensor rotary_positions(const char* op, const Tensor& x_BLHK, const Tensor& position_BL, double base);

namespace ref {
Tensor rotary(const Tensor& x_BLHK, const Tensor& position_BL, double base);
Tensor rotary_with_frequencies(const Tensor& x_BLHK, const Tensor& position_BL, const Tensor& frequency_K);
}  // namespace ref

}  // namespace megalodon::ops
