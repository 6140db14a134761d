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
#include "ops/device.h"
#include "ops/linear/matrix_product.h"

namespace megalodon {
namespace {

// Large enough to reach the peak: on a CPU 2 GFLOP a product, on a GPU 1.1 TFLOP.
int64_t peak_size(torch::Device device) {
  return device.is_cuda() ? 8192 : 1024;
}

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

double product_flops(torch::ScalarType type, torch::Device device) {
  torch::NoGradGuard no_grad;
  const int64_t size = peak_size(device);
  const auto options = torch::TensorOptions(device);
  // Not of zeros or ones: a GPU multiplies those faster than real numbers.
  const Tensor a = torch::rand({size, size}, options).sub_(0.5).to(type), product = torch::empty_like(a);
  const ops::PackedMatrix b(torch::rand({size, size}, options).sub_(0.5), type);
  const double seconds = best_of_many([&] {
    b.multiply(product, a);
    ops::synchronize(device);
  });
  const auto n = static_cast<double>(size);
  return 2 * n * n * n / seconds;
}

double copy_bandwidth(torch::Device device) {
  const Tensor from = torch::rand({int64_t{1} << 28}, torch::TensorOptions(device)), to = torch::empty_like(from);
  const double seconds = best_of_many([&] {
    Tensor(to).copy_(from);
    ops::synchronize(device);
  });
  return 2 * static_cast<double>(from.nbytes()) / seconds;
}

std::string cpu_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  return "unknown processor";
}

}  // namespace

double measure_peak_flops(nn::Precision precision, torch::Device device) {
  const double in_float32 = product_flops(torch::kFloat32, device);
  return precision == nn::Precision::kFloat32 ? in_float32
                                              : std::max(in_float32, product_flops(torch::kBFloat16, device));
}

double measure_bandwidth(torch::Device device) {
  if (device.is_cuda()) return copy_bandwidth(device);
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

std::string describe_machine(torch::Device device) {
  if (device.is_cuda()) return fmt::format("{}, libtorch {}", ops::device_name(device), TORCH_VERSION);
  return fmt::format("{}, {} threads, libtorch {}", cpu_name(), at::get_num_threads(), TORCH_VERSION);
}

}  // namespace megalodon
