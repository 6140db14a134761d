#include "data/split.h"

#include "base/check.h"
#include "base/philox.h"

namespace megalodon::data {

void check_fractions(double valid, double test) {
  if (!(valid >= 0 && test >= 0 && valid + test < 1))
    fail_usage(
        "[data] the fractions of valid and test must not be negative and leave something to train on, got {} and {}",
        valid, test);
}

size_t draw_part(uint64_t seed, uint64_t number, std::span<const double> fractions) {
  constexpr uint64_t kSplitStream = 0x73706C6974;  // the split's own random numbers
  double left = philox(derive_key(seed, kSplitStream), number)[0] * 0x1p-32;
  for (size_t part = fractions.size() - 1; part > 0; --part) {
    if (left < fractions[part]) return part;
    left -= fractions[part];
  }
  return 0;
}

}  // namespace megalodon::data
