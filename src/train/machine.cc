#include "train/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <fstream>

#include "base/check.h"
#include "base/compat.h"
#include "base/parallel.h"
#include "base/process.h"
#include "ops/linear/matrix_product.h"

namespace megalodon {
namespace {

constexpr int64_t kSize = 1024;  // three float32 matrices of 4 MiB: large enough to reach the peak, 2 GFLOP a product
constexpr double kSeconds = 0.3;
constexpr int kFewest = 2;  // the first one also wakes threads up

/// Seconds of the fastest call.
template <class Run>
double best_of_many(const Run& run) {
  double best = HUGE_VAL;
  const Stopwatch total;
  for (int i = 0; i < kFewest || total.seconds() < kSeconds; ++i) {
    const Stopwatch watch;
    run();
    best = std::min(best, watch.seconds());
  }
  return best;
}

double product_flops(torch::ScalarType type) {
  torch::NoGradGuard no_grad;
  const Tensor a = torch::ones({kSize, kSize}, type), product = torch::empty({kSize, kSize}, type);
  const ops::PackedMatrix b(torch::ones({kSize, kSize}), type);
  return 2.0 * kSize * kSize * kSize / best_of_many([&] { b.multiply(product, a); });
}

}  // namespace

double measure_peak_flops(nn::Precision precision) {
  const double in_float32 = product_flops(torch::kFloat32);
  return precision == nn::Precision::kFloat32 ? in_float32 : std::max(in_float32, product_flops(torch::kBFloat16));
}

double measure_read_bandwidth() {
  constexpr int64_t kBlock = 1 << 20, kBlocks = 256;  // bytes: far more than any cache
  const std::vector<char> memory(kBlock * kBlocks, 0);
  std::atomic<int64_t> found = 0;
  const double best = best_of_many([&] {
    parallel_for(kBlocks, [&](int64_t block) {  // the C library's search reads with the widest loads there are
      if (std::memchr(memory.data() + block * kBlock, 1, kBlock) != nullptr) ++found;
    });
  });
  check(found == 0, "[bench] zeros are not zero");
  return static_cast<double>(memory.size()) / best;
}

std::string describe_machine() {
  std::string processor = "unknown processor";
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    processor = line.substr(std::min(line.find(':') + 2, line.size()));
    break;
  }
  return fmt::format("{}, {} threads, libtorch {}", processor, at::get_num_threads(), TORCH_VERSION);
}

}  // namespace megalodon
