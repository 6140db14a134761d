// Convolution over time with kernels as long as the sequence (S4, Gu et al., 2021), through the FFT:
//
//   y_t,c = Σ_(j>=0) k_c,j ⊙ x_(t-j) + skip_c ⊙ x_t            [ + Σ_(j>=1) k'_c,(j-1) ⊙ x_(t+j) ]
//
// Shapes: B batch · L time · D features · C channels, the kernels of one feature · K kernel length, 0 beyond it. y is
// [B,L,C·D], channel by channel. Everything is real: float32 or float64. O(D log L) a step and channel.
#pragma once

#include "base/compat.h"

namespace megalodon::ops {

struct ConvolutionOptions {
  Tensor reverse_CDK;  // k', which sees what is to come, from lag 1 on; undefined: causal
  Tensor starts_BL;    // bool, true where a document begins, which sees nothing of its neighbours; undefined: none
};

Tensor long_convolution(const Tensor& x_BLD, const Tensor& kernel_CDK, const Tensor& skip_CD,
                        const ConvolutionOptions& options = {});

namespace ref {
Tensor long_convolution(const Tensor& x_BLD, const Tensor& kernel_CDK, const Tensor& skip_CD,
                        const ConvolutionOptions& options = {});
}  // namespace ref

}  // namespace megalodon::ops
