// Which kernel serves a tensor: every op has one for the CPU, <op>_cpu, and one for NVIDIA GPUs, <op>_cuda, which is
// compiled in where the build has nvcc and a libtorch with CUDA. Everything else (float64, other devices,
// MEGALODON_KERNELS=ref) runs on the op's reference composition.
#pragma once

#include <functional>
#include <string>
#include <type_traits>

#include "base/compat.h"
#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops {

/// MEGALODON_KERNELS=ref runs every op on its reference composition, to bisect a wrong number in minutes.
bool use_reference();

/// Whether this build has kernels for the device of x, and they are not switched off.
bool has_kernels(const Tensor& x);

/// True where the float32 kernel serves: its device has one, float32, kernels not switched off.
bool use_kernel(const Tensor& x);
/// The same for kernels that read and write bfloat16 too. CPU kernels of some ops do; see there.
bool use_kernel_of_any_type(const Tensor& x);

/// Of a float32 or bfloat16 tensor.
inline NumberType number_type(const Tensor& x) {
  return x.scalar_type() == torch::kBFloat16 ? NumberType::kBfloat16 : NumberType::kFloat32;
}

/// &<op>_cpu, &<op>_cuda: the second and third argument of run_kernel().
#if MEGALODON_CUDA
#define MEGALODON_KERNELS(op) &op##_cpu, &op##_cuda
#else
#define MEGALODON_KERNELS(op) &op##_cpu, nullptr
#endif

/// Calls use(queue) with the current stream of x's device, a CUDA device, which is the current device meanwhile.
/// Scratch memory comes from libtorch's allocator.
void with_cuda_queue(const Tensor& x, const std::function<void(CudaQueue&)>& use);

/// Runs the kernel of x's device.
template <class... Args>
void run_kernel(const Tensor& x, void (*cpu)(const Args&...),
                std::type_identity_t<void (*)(const Args&..., CudaQueue&)> cuda,
                const std::type_identity_t<Args>&... args) {
  if (x.is_cuda())
    with_cuda_queue(x, [&](CudaQueue& queue) { cuda(args..., queue); });
  else
    cpu(args...);
}

// ---- for who runs whole models -------------------------------------------------------------------------------------

/// What --device takes: "cpu", "cuda" or "cuda:1". Throws UsageError for anything else, and for a GPU that this machine
/// or this build does not have.
torch::Device parse_device(const std::string& name);

/// Of a GPU, as its driver names it.
std::string device_name(torch::Device device);

/// Waits until the device has done all that was queued.
void synchronize(torch::Device device);

/// The most memory that was in use at once since the program began or since the last reset: resident memory of the
/// process, or on a GPU what tensors took of the device.
int64_t peak_memory(torch::Device device);
/// Also gives memory that nobody uses back to the system.
void reset_peak_memory(torch::Device device);

}  // namespace megalodon::ops
