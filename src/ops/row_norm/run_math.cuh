// The arithmetic of the norms on one run of neighbouring features, on the GPU; run_math-inl.h is its twin on the CPU.
#pragma once

#include "ops/cuda_kernel.cuh"

namespace megalodon::ops::cuda {

/// Neighbouring features of one run.
template <int kWide>
struct Pack {
  float value[kWide];
};

template <int kWide, class T>
__device__ __forceinline__ Pack<kWide> load_pack(const T* from) {
  if constexpr (kWide == 4) {
    const float4 x = load4(from);
    return {{x.x, x.y, x.z, x.w}};
  } else {
    return {{to_float(*from)}};
  }
}

template <int kWide, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<kWide>& x) {
  if constexpr (kWide == 4)
    store4(to, float4{x.value[0], x.value[1], x.value[2], x.value[3]});
  else
    *to = from_float<T>(x.value[0]);
}

/// 1 + weight, or 1.
template <int kWide>
__device__ __forceinline__ Pack<kWide> load_scale(const float* weight, int64_t feature) {
  Pack<kWide> scale{};
  if (weight != nullptr) scale = load_pack<kWide>(weight + feature);
#pragma unroll
  for (int i = 0; i < kWide; ++i) scale.value[i] += 1;
  return scale;
}

/// A mean as the sum of two floats: x − hi is rounded relative to the difference and not to x, so (x − hi) − lo is
/// right to the last bits even where the mean is a million times the deviation.
struct alignas(16) Center {
  float hi, lo, rstd, unused;
  __device__ float operator()(float x) const { return (x - hi) - lo; }
  __device__ double mean() const { return static_cast<double>(hi) + lo; }
};

__device__ __forceinline__ Center center(double mean, float rstd) {
  const auto hi = static_cast<float>(mean);
  return {hi, static_cast<float>(mean - hi), rstd, 0};
}

/// Runs of K features are shared by teams of neighbouring lanes, a power of two.
template <int kWide>
__device__ __forceinline__ int team_size(int64_t K) {
  int team = 1;
  while (team < kWarp && team * kWide < K) team *= 2;
  return team;
}

template <class Number>
__device__ __forceinline__ Number team_sum(Number x, int team) {
  for (int distance = team / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

}  // namespace megalodon::ops::cuda
