// How Transformers tell positions: rotary frequencies, stretched for contexts longer than those of training, sinusoids,
// and ALiBi's slopes.
#pragma once

#include <string>
#include <vector>

#include "base/compat.h"

namespace megalodon::nn {

/// The kinds that rope_frequencies() knows.
///   none
///   linear          positions divided by the factor (Chen et al., 2023)
///   ntk             base · factor^(K/(K−2))
///   part_ntk, yarn  slow pairs stretched, fast ones left alone (Peng et al., "YaRN", 2023)
///   dynamic_*       the same (linear, ntk, yarn) by how much the sequence exceeds the original length
const std::vector<std::string>& rope_scalings();

struct RopeScaling {
  std::string kind = "none";
  double factor = 1;
  int64_t original_length = 4096;  // M, of training
  double beta_fast = 32, beta_slow = 1;
};

struct RopeFrequencies {
  Tensor frequency_K;    // [K/2], float64
  double magnitude = 1;  // of cosines and sines: scores are multiplied by its square
};

/// Pair i of K/2 turns by base^(−2i/K) a step before it is stretched. `length`: of the sequence, for dynamic kinds.
/// Throws UsageError for another kind.
RopeFrequencies rope_frequencies(int64_t head_dim, double base, const RopeScaling& scaling, int64_t length = 0);

/// s_i = 2^(−max · i / n), i = 1 … n, for n a power of two; otherwise those of the next one, every second first.
Tensor alibi_slopes(int64_t heads, double max);

/// 10000^(−2i/D), i = 0 … D/2 − 1, float64.
Tensor sinusoid_frequencies(int64_t dim);
/// sin(p · frequency_i) at 2i and the cosine at 2i + 1, [B,L,D], float32. The frequencies are float64, where the
/// positions are.
Tensor sinusoids(const Tensor& position_BL, const Tensor& frequency_D);

}  // namespace megalodon::nn
