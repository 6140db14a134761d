// What the CUDA kernels of all ops share. For *_cuda.cu only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline void check(cudaError_t status, const char* op) {
  if (status != cudaSuccess)
    throw std::runtime_error("[" + std::string(op) + "] CUDA failed: " + cudaGetErrorString(status));
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared = 0;  // bytes of dynamic shared memory
};

#ifdef __CUDACC__

/// Queues kernel(args...), and throws where it could not be queued; `op` names it. What goes wrong while it runs shows
/// at the next synchronization.
template <class... Parameters, class... Args>
void launch(const char* op, CudaQueue& queue, const LaunchShape& shape, void (*kernel)(Parameters...),
            const Args&... args) {
  kernel<<<shape.grid, shape.block, shape.shared, queue.stream()>>>(static_cast<Parameters>(args)...);
  check(cudaGetLastError(), op);
}

/// A block's dynamic shared memory, aligned to 16 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

#else  // on the CPU, by tests/cuda_emulator: the kernel has run when this returns

template <class... Parameters, class... Args>
void launch(const char* op, CudaQueue&, const LaunchShape& shape, void (*kernel)(Parameters...), const Args&... args) {
  check(cuda_emulator::launch(reinterpret_cast<const void*>(kernel), shape.grid, shape.block, shape.shared,
                              [&] { kernel(static_cast<Parameters>(args)...); }),
        op);
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(cuda_emulator::dynamic_shared());
}

#endif

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Calls f(T{}) with the C++ type of the numbers: float or __nv_bfloat16.
template <class F>
void with_type(NumberType type, const F& f) {
  if (type == NumberType::kBfloat16)
    f(__nv_bfloat16{});
  else
    f(float{});
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == sizeof(float))
    return x;
  else
    return __float2bfloat16_rn(x);
}

/// The bfloat16 numbers of a word, as float32.
__device__ __forceinline__ float lower_half(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float upper_half(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }

/// Four neighbours as float32; the address must be a multiple of their size (16 or 8 bytes).
__device__ __forceinline__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ __forceinline__ float4 load4(const __nv_bfloat16* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  return {lower_half(bits.x), upper_half(bits.x), lower_half(bits.y), upper_half(bits.y)};
}
__device__ __forceinline__ void store4(float* to, float4 x) { *reinterpret_cast<float4*>(to) = x; }
__device__ __forceinline__ void store4(__nv_bfloat16* to, float4 x) {
  union {
    __nv_bfloat162 pair[2];
    uint2 bits;
  } packed;
  packed.pair[0] = __floats2bfloat162_rn(x.x, x.y);
  packed.pair[1] = __floats2bfloat162_rn(x.z, x.w);
  *reinterpret_cast<uint2*>(to) = packed.bits;
}

/// kWide neighbours, 1 or 4, as float32; for 4 as load4().
template <class T, int kWide>
__device__ __forceinline__ void load_wide(const T* from, float (&x)[kWide]) {
  if constexpr (kWide == 4) {
    const float4 four = load4(from);
    x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
  } else {
    x[0] = to_float(*from);
  }
}

/// Whether rows of `size` numbers of type T that begin at `base` may be read four at a time.
template <class T>
bool in_fours(const T* base, int64_t size) {
  return size % 4 == 0 && reinterpret_cast<uintptr_t>(base) % (4 * sizeof(T)) == 0;
}

/// The sum over the warp, in every lane.
template <class Number>
__device__ __forceinline__ Number warp_sum(Number x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
  return x;
}

/// The sum over a block of whole warps, at most 1024 threads, in every thread; `shared` holds 32 numbers and may be
/// used again after the call.
template <class Number>
__device__ __forceinline__ Number block_sum(Number x, Number* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_sum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? shared[lane] : Number{});
  __syncthreads();
  return x;
}

}  // namespace megalodon::ops::cuda
