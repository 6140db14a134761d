// The rotation of adjacent pairs on a GPU, shared by rotary and query_key. For *_cuda.cu only.
#pragma once

#include "ops/cuda_kernel.cuh"

namespace megalodon::ops::cuda {

/// Neighbours that one thread holds: four, read at once, or one pair where memory is not aligned for that.
template <int kWide>
struct Numbers {
  float at[kWide];
};

template <int kWide, class T>
__device__ __forceinline__ Numbers<kWide> load_numbers(const T* from) {
  if constexpr (kWide == 4) {
    const float4 x = load4(from);
    return {{x.x, x.y, x.z, x.w}};
  } else {
    return {{to_float(from[0]), to_float(from[1])}};
  }
}

template <int kWide, class T>
__device__ __forceinline__ void store_numbers(T* to, const Numbers<kWide>& x) {
  if constexpr (kWide == 4) {
    store4(to, {x.at[0], x.at[1], x.at[2], x.at[3]});
  } else {
    to[0] = from_float<T>(x.at[0]);
    to[1] = from_float<T>(x.at[1]);
  }
}

/// Cosines and sines of a thread's pairs.
template <int kWide>
struct Turn {
  float cosine[kWide / 2], sine[kWide / 2];
};

/// The angles are float32 numbers, as everywhere; sincosf() is right to two units of the last place wherever they lie
/// (__sincosf() would be wrong by the size of the angle).
template <int kWide>
__device__ __forceinline__ Turn<kWide> turn_of(int64_t position, const float* frequencies) {
  Turn<kWide> turn;
#pragma unroll
  for (int i = 0; i < kWide / 2; ++i)
    sincosf(__fmul_rn(static_cast<float>(position), __ldg(frequencies + i)), &turn.sine[i], &turn.cosine[i]);
  return turn;
}

/// By the angle times `sign`, which is 1 or -1.
template <int kWide>
__device__ __forceinline__ Numbers<kWide> rotate(const Numbers<kWide>& x, const Turn<kWide>& turn, float sign) {
  Numbers<kWide> y;
#pragma unroll
  for (int i = 0; i < kWide / 2; ++i) {
    const float even = x.at[2 * i], odd = x.at[2 * i + 1], sine = sign * turn.sine[i];
    y.at[2 * i] = even * turn.cosine[i] - odd * sine;
    y.at[2 * i + 1] = even * sine + odd * turn.cosine[i];
  }
  return y;
}

}  // namespace megalodon::ops::cuda
