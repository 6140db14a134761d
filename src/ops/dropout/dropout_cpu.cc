// Four elements per Philox call; blocks of 16 Ki elements per task. Compute bound (about 10 multiplies an element), and
// used only where a dropout probability is not zero.
#include <algorithm>

#include "base/parallel.h"
#include "base/philox.h"
#include "ops/dropout/dropout_kernel.h"

namespace megalodon::ops {
namespace {

constexpr int64_t kBlock = 1 << 14;  // a multiple of 4; 64 KiB of floats, well inside L2

/// Calls use(index, factor) for every element of every block.
template <class Use>
void for_each_factor(int64_t size, double p, uint64_t key, const Use& use) {
  // Uniforms are multiples of 2^-24, so comparing against p in float32 drops with probability p to within 2^-24.
  const auto threshold = static_cast<float>(p);
  const double keep = 1.0 / (1.0 - p);
  parallel_for((size + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t end = std::min(size, (block + 1) * kBlock);
    for (int64_t i = block * kBlock; i < end; i += 4) {
      const Philox4 bits = philox(key, static_cast<uint64_t>(i) / 4);
      for (int64_t j = i; j < std::min(end, i + 4); ++j) use(j, philox_uniform(bits[j - i]) >= threshold ? keep : 0.0);
    }
  });
}

}  // namespace

void dropout_cpu(const DropoutArgs& args) {
  const auto* x = static_cast<const float*>(args.x);
  auto* y = static_cast<float*>(args.y);
  for_each_factor(args.size, args.p, args.key,
                  [&](int64_t i, double factor) { y[i] = x[i] * static_cast<float>(factor); });
}

void dropout_mask_cpu(double* mask, int64_t size, double p, uint64_t key) {
  for_each_factor(size, p, key, [&](int64_t i, double factor) { mask[i] = factor; });
}

}  // namespace megalodon::ops
