#include "ops/recording.h"

#if MEGALODON_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <exception>

#include "ops/device.h"

namespace megalodon::ops {
namespace {

class CudaRecording final : public Recording {
 public:
  CudaRecording(torch::Device device, const std::function<void()>& work) {
    // The default stream records nothing.
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()));
    graph_.capture_begin();
    try {
      work();
    } catch (...) {
      const std::exception_ptr reason = std::current_exception();
      try {
        graph_.capture_end();  // else the stream would go on recording
      } catch (const std::exception&) {
        // The recording had failed already: the reason is what counts.
      }
      cudaGetLastError();  // or the next launch would be blamed for it
      std::rethrow_exception(reason);
    }
    graph_.capture_end();
  }
  void repeat() override { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

}  // namespace

Recorder recorder_of(torch::Device device) {
  if (!device.is_cuda() || use_reference()) return nullptr;
  return [device](const std::function<void()>& work) { return std::make_unique<CudaRecording>(device, work); };
}

}  // namespace megalodon::ops
#else
namespace megalodon::ops {

Recorder recorder_of(torch::Device) {
  return nullptr;
}

}  // namespace megalodon::ops
#endif
