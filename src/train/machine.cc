#include "train/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/compat.h"
#include "base/parallel.h"
#include "base/process.h"

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
  const Tensor a = torch::ones({kSize, kSize}, type), b = torch::ones({kSize, kSize}, type);
  Tensor product = torch::empty({kSize, kSize}, type);
  return 2.0 * kSize * kSize * kSize / best_of_many([&] { torch::mm_out(product, a, b); });
}

}  // namespace

double measure_peak_flops(nn::Precision precision) {
  const double in_float32 = product_flops(torch::kFloat32);
  return precision == nn::Precision::kFloat32 ? in_float32 : std::max(in_float32, product_flops(torch::kBFloat16));
}

double measure_read_bandwidth() {
  constexpr int64_t kBlock = 1 << 18, kBlocks = 256;  // 64 Mi numbers: 256 MiB
  const std::vector<float> memory(kBlock * kBlocks, 1.0F);
  std::vector<float> sums(kBlocks);
  const double best = best_of_many([&] {
    parallel_for(kBlocks, [&](int64_t block) {
      const float* from = memory.data() + block * kBlock;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < kBlock; ++i) sum += from[i];
      sums[static_cast<size_t>(block)] = sum;
    });
  });
  return static_cast<double>(sizeof(float) * memory.size()) / best;
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
