// Walking over flat arrays four numbers at a time, for *_cuda.cu.
#pragma once

#include <type_traits>

#include "ops/cuda_kernel.cuh"

namespace megalodon::ops::cuda {

/// Of a block of an elementwise kernel: 256 threads with two fours of each array, a block's width apart. Every access
/// is one contiguous stretch of the warp, and both fours of all arrays are on their way before the first is needed.
constexpr int kElementwiseThreads = 256;
constexpr int kElementwiseFours = 2;
constexpr int64_t kElementwiseBlock = int64_t{4} * kElementwiseThreads * kElementwiseFours;

inline unsigned elementwise_blocks(int64_t size) { return static_cast<unsigned>(divide_up(size, kElementwiseBlock)); }

/// Where four number `four` of this thread begins.
__device__ __forceinline__ int64_t four_begin(int four) {
  return blockIdx.x * kElementwiseBlock + int64_t{4} * (four * kElementwiseThreads + static_cast<int>(threadIdx.x));
}

/// Calls part(kWhole) with a constant: std::true_type where this block may use vectors of four throughout, that is
/// where the arrays are `aligned` and do not end inside. A branch at every vector would wait for it there and then.
template <class Part>
__device__ __forceinline__ void elementwise_block(bool aligned, int64_t size, const Part& part) {
  if (aligned && (blockIdx.x + int64_t{1}) * kElementwiseBlock <= size)
    part(std::true_type{});
  else
    part(std::false_type{});
}

/// Elements i to i + 3 of an array of `size`. kWhole: as one vector; else one by one, 0 for those that are not there.
template <bool kWhole, class T>
__device__ __forceinline__ float4 load_four(const T* from, int64_t i, int64_t size) {
  if constexpr (kWhole) return load4(from + i);
  const auto one = [&](int64_t j) { return j < size ? to_float(from[j]) : 0.0f; };
  return {one(i), one(i + 1), one(i + 2), one(i + 3)};
}

/// Writes those of the four that are in the array.
template <bool kWhole, class T>
__device__ __forceinline__ void store_four(T* to, int64_t i, int64_t size, float4 x) {
  if constexpr (kWhole) return store4(to + i, x);
  const auto one = [&](int64_t j, float value) {
    if (j < size) to[j] = from_float<T>(value);
  };
  one(i, x.x), one(i + 1, x.y), one(i + 2, x.z), one(i + 3, x.w);
}

/// Whether vectors of four may begin at every fourth number from `base` on; true of null.
template <class T>
bool begins_a_four(const void* base) {
  return in_fours(static_cast<const T*>(base), 4);
}

}  // namespace megalodon::ops::cuda
