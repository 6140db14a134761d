#include "train/machine.h"

#include <algorithm>
#include <cmath>

#include "base/compat.h"
#include "base/process.h"

namespace megalodon {
namespace {

constexpr int64_t kSize = 1024;  // three matrices of 4 MiB: large enough to reach the peak, 2 GFLOP a product
constexpr double kSeconds = 0.3;
constexpr int kFewest = 2;  // the first product also wakes threads up

}  // namespace

double measure_peak_flops() {
  torch::NoGradGuard no_grad;
  const Tensor a = torch::ones({kSize, kSize}), b = torch::ones({kSize, kSize});
  Tensor product = torch::empty({kSize, kSize});
  double best = HUGE_VAL;
  const Stopwatch total;
  for (int i = 0; i < kFewest || total.seconds() < kSeconds; ++i) {
    const Stopwatch watch;
    torch::mm_out(product, a, b);
    best = std::min(best, watch.seconds());
  }
  return 2.0 * kSize * kSize * kSize / best;
}

}  // namespace megalodon
