// Elementwise, one pass: 12 bytes move per element forward and 20 backward, half of it in bfloat16, for one exponential
// and one reciprocal: the speed of memory. A thread has eight elements, as two fours (cuda_elementwise.cuh). The
// reciprocal is of a number in [1, 2], where the hardware's own is exact to a unit in the last place.
#include "ops/cuda_elementwise.cuh"
#include "ops/gated_silu/gated_silu_kernel.h"

namespace megalodon::ops {
namespace {

using namespace cuda;

struct Sigmoid {
  float value, rest;  // sigmoid(a) and 1 − sigmoid(a)
};

/// e^-|a| lies in [0, 1] whatever a is: no overflow, and full relative precision of both results.
__device__ __forceinline__ Sigmoid sigmoid(float a) {
  const float e = expf(-fabsf(a)), large = __fdividef(1.0f, 1.0f + e), small = e * large;
  return a >= 0 ? Sigmoid{large, small} : Sigmoid{small, large};
}

__device__ __forceinline__ float h_of(float a, float b) { return a * sigmoid(a).value * b; }

struct Gradients {
  float da, db;
};

__device__ __forceinline__ Gradients gradients_of(float a, float b, float dh) {
  const Sigmoid s = sigmoid(a);
  return {dh * s.value * (1.0f + a * s.rest) * b, dh * (a * s.value)};
}

template <bool kWhole, bool kGated, class A, class B>
__device__ __forceinline__ void forward_part(const GatedSiluForwardArgs& args) {
  const auto* a_data = static_cast<const A*>(args.a);
  const auto* b_data = static_cast<const B*>(args.b);
  float4 a[kElementwiseFours], b[kElementwiseFours];
#pragma unroll
  for (int four = 0; four < kElementwiseFours; ++four) {
    a[four] = load_four<kWhole>(a_data, four_begin(four), args.size);
    b[four] = kGated ? load_four<kWhole>(b_data, four_begin(four), args.size) : float4{1, 1, 1, 1};
  }
#pragma unroll
  for (int four = 0; four < kElementwiseFours; ++four) {
    const float4 x = a[four], y = b[four];
    store_four<kWhole>(static_cast<A*>(args.h), four_begin(four), args.size,
                       float4{h_of(x.x, y.x), h_of(x.y, y.y), h_of(x.z, y.z), h_of(x.w, y.w)});
  }
}

template <bool kWhole, bool kGated, class A, class B>
__device__ __forceinline__ void backward_part(const GatedSiluBackwardArgs& args) {
  const auto *a_data = static_cast<const A*>(args.a), *dh_data = static_cast<const A*>(args.dh);
  const auto* b_data = static_cast<const B*>(args.b);
  float4 a[kElementwiseFours], b[kElementwiseFours], dh[kElementwiseFours];
#pragma unroll
  for (int four = 0; four < kElementwiseFours; ++four) {
    a[four] = load_four<kWhole>(a_data, four_begin(four), args.size);
    dh[four] = load_four<kWhole>(dh_data, four_begin(four), args.size);
    b[four] = kGated ? load_four<kWhole>(b_data, four_begin(four), args.size) : float4{1, 1, 1, 1};
  }
#pragma unroll
  for (int four = 0; four < kElementwiseFours; ++four) {
    const float4 x = a[four], y = b[four], d = dh[four];
    const Gradients g0 = gradients_of(x.x, y.x, d.x), g1 = gradients_of(x.y, y.y, d.y),
                    g2 = gradients_of(x.z, y.z, d.z), g3 = gradients_of(x.w, y.w, d.w);
    store_four<kWhole>(static_cast<A*>(args.da), four_begin(four), args.size, float4{g0.da, g1.da, g2.da, g3.da});
    if constexpr (kGated)
      store_four<kWhole>(static_cast<B*>(args.db), four_begin(four), args.size, float4{g0.db, g1.db, g2.db, g3.db});
  }
}

template <bool kGated, class A, class B>
__global__ void __launch_bounds__(kElementwiseThreads) forward_kernel(const GatedSiluForwardArgs args, bool aligned) {
  elementwise_block(aligned, args.size,
                    [&](auto whole) { forward_part<decltype(whole)::value, kGated, A, B>(args); });
}

template <bool kGated, class A, class B>
__global__ void __launch_bounds__(kElementwiseThreads) backward_kernel(const GatedSiluBackwardArgs args, bool aligned) {
  elementwise_block(aligned, args.size,
                    [&](auto whole) { backward_part<decltype(whole)::value, kGated, A, B>(args); });
}

// ---------------------------------------------------------------------------------------------------------------------

/// Calls run(A{}, B{}) with numbers of the arguments' types.
template <class Args, class Run>
void with_types(const Args& args, const Run& run) {
  if (args.a_type == NumberType::kFloat32)
    run(float{}, float{});
  else
    with_type(args.b_type, [&](auto b) { run(__nv_bfloat16{}, b); });
}

template <class Args>
void run_kernel(void (*kernel)(Args, bool), const Args& args, bool aligned, CudaQueue& queue) {
  if (args.size > 0)
    launch("gated_silu", queue, {elementwise_blocks(args.size), kElementwiseThreads}, kernel, args, aligned);
}

}  // namespace

void gated_silu_forward_cuda(const GatedSiluForwardArgs& args, CudaQueue& queue) {
  with_types(args, [&](auto a, auto b) {
    using A = decltype(a);
    using B = decltype(b);
    const bool aligned = begins_a_four<A>(args.a) && begins_a_four<B>(args.b) && begins_a_four<A>(args.h);
    run_kernel(args.b != nullptr ? forward_kernel<true, A, B> : forward_kernel<false, A, B>, args, aligned, queue);
  });
}

void gated_silu_backward_cuda(const GatedSiluBackwardArgs& args, CudaQueue& queue) {
  with_types(args, [&](auto a, auto b) {
    using A = decltype(a);
    using B = decltype(b);
    const bool aligned = begins_a_four<A>(args.a) && begins_a_four<B>(args.b) && begins_a_four<A>(args.dh) &&
                         begins_a_four<A>(args.da) && begins_a_four<B>(args.db);
    run_kernel(args.b != nullptr ? backward_kernel<true, A, B> : backward_kernel<false, A, B>, args, aligned, queue);
  });
}

}  // namespace megalodon::ops
