// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011): random numbers as a pure function
// of (key, counter). Whoever needs the number of one element computes it anywhere, in any order, on any thread, and the
// backward pass recomputes what the forward drew; nothing but the key has to be stored to resume. (constexpr: CUDA
// kernels call it.)
#pragma once

#include <array>
#include <cstdint>

namespace megalodon {

using Philox4 = std::array<uint32_t, 4>;

constexpr Philox4 philox(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0) {
  Philox4 c = {static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
               static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c[0], product1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(product0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

/// Uniform in [0, 1) with 24 bits, the float32 grid.
constexpr float philox_uniform(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

/// An independent key for a named use: mixes `stream` into `seed` (the finalizer of SplitMix64).
constexpr uint64_t derive_key(uint64_t seed, uint64_t stream) {
  uint64_t z = seed + 0x9E3779B97F4A7C15 * (stream + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace megalodon
