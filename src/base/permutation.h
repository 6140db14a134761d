// Orders that are computed, not stored.
#pragma once

#include <bit>
#include <cstdint>

#include "base/philox.h"

namespace megalodon {

/// The place of `value` in a pseudo-random permutation of [0, count) that needs no table: a Feistel network permutes
/// the smallest [0, 4^k) that holds count, and walking its cycle until it comes back below count permutes [0, count)
/// (less than 4 steps on average).
inline uint64_t permute(uint64_t value, uint64_t count, uint64_t key) {
  constexpr uint64_t kRounds = 6;
  const int half = (static_cast<int>(std::bit_width(count - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint64_t round = 1; round <= kRounds; ++round) {
      const Philox4 random = philox(key, right, round);
      const uint64_t mixed = left ^ (random[0] & mask);
      left = right;
      right = mixed;
    }
    value = left << half | right;
  } while (value >= count);
  return value;
}

}  // namespace megalodon
