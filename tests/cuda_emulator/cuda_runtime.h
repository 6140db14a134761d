// The part of CUDA that this project's kernels and their tests use, for the CPU: emulator.h. Device functions are plain
// functions, atomics plain operations, and whatever is queued on a stream has run when the call returns.
#pragma once

#include <math.h>  // CUDA has its functions in the global namespace

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator.h"

// NOLINTBEGIN(bugprone-reserved-identifier): CUDA's names
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

// ---- types ----------------------------------------------------------------------------------------------------------

struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

// ---- host -----------------------------------------------------------------------------------------------------------

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct CUstream_st {};
using cudaStream_t = CUstream_st*;

/// What there is to say about the last error.
const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemset(void* memory, int byte, size_t bytes);
cudaError_t cudaMemsetAsync(void* memory, int byte, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);

cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);

template <class Result, class... Parameters>
cudaError_t cudaFuncSetAttribute(Result (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  return cuda_emulator::set_shared_limit(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
}

// ---- device: threads ------------------------------------------------------------------------------------------------

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

inline void __syncthreads() {
  cuda_emulator::meet_threads();
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_emulator::meet_lanes(cuda_emulator::Wait::kWarp, mask, 0, 0);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  return static_cast<unsigned>(cuda_emulator::meet_lanes(cuda_emulator::Wait::kBallot, mask, predicate, 0));
}
inline void __nanosleep(unsigned) {
  cuda_emulator::sleep();
}
inline void __threadfence() {}

namespace cuda_emulator {

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
T shuffle(Wait wait, unsigned mask, T value, unsigned source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles 4 or 8 bytes");
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  return bits_as<T>(static_cast<Bits>(meet_lanes(wait, mask, bits_as<Bits>(value), source)));
}

}  // namespace cuda_emulator

// A warp is cut into segments of `width` lanes, a power of two.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const unsigned lane = cuda_emulator::lane(), size = static_cast<unsigned>(width), begin = lane & ~(size - 1);
  return cuda_emulator::shuffle(cuda_emulator::Wait::kShuffle, mask, value,
                                begin + (static_cast<unsigned>(from) & (size - 1)));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const unsigned lane = cuda_emulator::lane(), begin = lane & ~(static_cast<unsigned>(width) - 1);
  return cuda_emulator::shuffle(cuda_emulator::Wait::kShuffleUp, mask, value,
                                lane >= begin + distance ? lane - distance : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const unsigned lane = cuda_emulator::lane(), size = static_cast<unsigned>(width), end = (lane & ~(size - 1)) + size;
  return cuda_emulator::shuffle(cuda_emulator::Wait::kShuffleDown, mask, value,
                                lane + distance < end ? lane + distance : lane);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = cuda_emulator::lane(), size = static_cast<unsigned>(width), end = (lane & ~(size - 1)) + size;
  const unsigned other = lane ^ static_cast<unsigned>(bits);
  return cuda_emulator::shuffle(cuda_emulator::Wait::kShuffleXor, mask, value, other < end ? other : lane);
}

// ---- device: memory -------------------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}

template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}

// ---- device: arithmetic ---------------------------------------------------------------------------------------------

template <class T>
constexpr T min(T a, T b) {
  static_assert(std::is_integral_v<T>, "of floats there is fminf(), to which NaN is no number");
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  static_assert(std::is_integral_v<T>, "of floats there is fmaxf(), to which NaN is no number");
  return a < b ? b : a;
}

inline float __uint_as_float(unsigned bits) {
  return cuda_emulator::bits_as<float>(bits);
}
inline unsigned __float_as_uint(float x) {
  return cuda_emulator::bits_as<unsigned>(x);
}

inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __expf(float x) {
  return expf(x);
}
inline float __logf(float x) {
  return logf(x);
}
/// Ties to even.
inline int __float2int_rn(float x) {
  return static_cast<int>(nearbyintf(x));
}
inline float rsqrtf(float x) {
  return 1.0f / sqrtf(x);
}

/// c + Σ of the products of the four bytes of a and b.
inline int __dp4a(int a, int b, int c) {
  for (int shift = 0; shift < 32; shift += 8) c += static_cast<int8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int shift = 0; shift < 32; shift += 8) c += (a >> shift & 0xff) * (b >> shift & 0xff);
  return c;
}
// NOLINTEND(bugprone-reserved-identifier)
