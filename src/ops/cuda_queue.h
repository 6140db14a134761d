// What a CUDA kernel needs from its caller. No CUDA header: the glue of every op includes this, with or without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace megalodon::ops {

/// Where kernels run, in order, and where their scratch memory comes from.
class CudaQueue {
 public:
  CudaQueue() = default;
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;
  virtual ~CudaQueue() = default;

  virtual CUstream_st* stream() const = 0;
  /// Device memory that holds nothing meaningful yet, aligned to 256 bytes. What is queued on stream() while this
  /// object lives may use it; it is taken back after that work, without waiting for it.
  virtual void* scratch(size_t bytes) = 0;

  template <class T>
  T* scratch_of(int64_t count) {
    return static_cast<T*>(scratch(static_cast<size_t>(count) * sizeof(T)));
  }
};

}  // namespace megalodon::ops
