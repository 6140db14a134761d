#include "ops/device.h"

#include <torch/cuda.h>

#include <cstdlib>
#include <string_view>
#include <vector>
#if MEGALODON_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

#include "base/check.h"
#include "base/process.h"

namespace megalodon::ops {

bool use_reference() {
  static const bool reference = [] {
    const char* value = std::getenv("MEGALODON_KERNELS");
    if (value == nullptr || *value == '\0') return false;
    check(std::string_view(value) == "ref", "[MEGALODON_KERNELS] expected \"ref\" or nothing, got \"{}\"", value);
    return true;
  }();
  return reference;
}

bool has_kernels(const Tensor& x) {
  return (x.is_cpu() || (MEGALODON_CUDA && x.is_cuda())) && !use_reference();
}

bool use_kernel(const Tensor& x) {
  return x.scalar_type() == torch::kFloat32 && has_kernels(x);
}

bool use_kernel_of_any_type(const Tensor& x) {
  return (x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kBFloat16) && has_kernels(x);
}

torch::Device parse_device(const std::string& name) {
  if (name == "cpu") return torch::kCPU;
  if (name != "cuda" && name.rfind("cuda:", 0) != 0)
    fail_usage("[device] expected cpu, cuda or cuda:N, got \"{}\"", name);
  const std::string digits = name == "cuda" ? "0" : name.substr(5);
  if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos)
    fail_usage("[device] expected cuda:N with the number of a GPU, got \"{}\"", name);
  if (!MEGALODON_CUDA)
    fail_usage("[device] {} was asked for, but this build has no CUDA: it needs nvcc and a libtorch with CUDA", name);
  const auto count = static_cast<int>(torch::cuda::device_count());
  if (std::stoi(digits) >= count) fail_usage("[device] {} was asked for, but {} GPUs were found", name, count);
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(std::stoi(digits))};
}

void synchronize(torch::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
}

#if MEGALODON_CUDA
std::string device_name(torch::Device device) {
  cudaDeviceProp properties{};
  const cudaError_t status = cudaGetDeviceProperties(&properties, device.index());
  check(status == cudaSuccess, "[device] {}", cudaGetErrorString(status));
  return properties.name;
}

int64_t peak_memory(torch::Device device) {
  if (!device.is_cuda()) return peak_resident_bytes();
  return c10::cuda::CUDACachingAllocator::getDeviceStats(device.index()).allocated_bytes[0].peak;
}

void reset_peak_memory(torch::Device device) {
  if (!device.is_cuda()) return reset_peak_resident_bytes();
  c10::cuda::CUDACachingAllocator::emptyCache();
  c10::cuda::CUDACachingAllocator::resetPeakStats(device.index());
}

namespace {

class TorchQueue final : public CudaQueue {
 public:
  explicit TorchQueue(const Tensor& x)
      : stream_(c10::cuda::getCurrentCUDAStream(x.device().index())), bytes_(x.options().dtype(torch::kUInt8)) {}
  CUstream_st* stream() const override { return stream_.stream(); }
  void* scratch(size_t bytes) override {
    // Freed with this object: the allocator hands the memory only to later work of the same stream.
    memory_.push_back(torch::empty({static_cast<int64_t>(bytes)}, bytes_));
    return memory_.back().data_ptr();
  }

 private:
  c10::cuda::CUDAStream stream_;
  torch::TensorOptions bytes_;
  std::vector<Tensor> memory_;
};

}  // namespace

void with_cuda_queue(const Tensor& x, const std::function<void(CudaQueue&)>& use) {
  const c10::cuda::CUDAGuard guard(x.device());
  TorchQueue queue(x);
  use(queue);
}
#else
std::string device_name(torch::Device device) {
  return device.str();
}

int64_t peak_memory(torch::Device) {
  return peak_resident_bytes();
}

void reset_peak_memory(torch::Device) {
  reset_peak_resident_bytes();
}

void with_cuda_queue(const Tensor& x, const std::function<void(CudaQueue&)>&) {
  fail("[ops] this build has no CUDA kernels, got a tensor on {}", x.device().str());
}
#endif

}  // namespace megalodon::ops
