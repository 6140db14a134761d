// Initial values of parameters, each a pure function of a 64-bit key (see derive_key in base/philox.h).
#pragma once

#include <string>
#include <vector>

#include "base/compat.h"

namespace megalodon::nn {

void normal(const Tensor& parameter, double std, uint64_t key);
void uniform(const Tensor& parameter, double low, double high, uint64_t key);
/// Normal with that mean 0 and standard deviation, cut off at ± `limit`.
void truncated_normal(const Tensor& parameter, double std, double limit, uint64_t key);

/// The weight [out, in] of a linear layer:
///   he        N(0, 1/(3 in))                     bert      N(0, 0.02²)
///   xavier    U(±sqrt(6/(in + out)))             gaussian  N(0, 1) cut off at ±3
///   none      U(±1/sqrt(in)), torch's own
void init_linear(const Tensor& weight, const std::string& mode, uint64_t key);
const std::vector<std::string>& init_modes();

/// Embedding and output matrices [V,D]: N(0, 1/D) cut off at three standard deviations.
void embedding(const Tensor& weight, uint64_t key);

}  // namespace megalodon::nn
