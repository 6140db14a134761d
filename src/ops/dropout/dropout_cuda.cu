// Elementwise: four elements take one Philox call, some 25 operations an element, under the 8 bytes that an element
// moves (4 in bfloat16). A thread has eight elements, as two fours (cuda_elementwise.cuh); the mask is the CPU's, bit
// for bit, and nothing of it is stored.
#include "base/philox.h"
#include "ops/cuda_elementwise.cuh"
#include "ops/dropout/dropout_kernel.h"

namespace megalodon::ops {
namespace {

using namespace cuda;

/// What the kernel needs of the probability, as the CPU rounds it.
struct Factors {
  float threshold, keep;
};

template <bool kWhole, class T>
__device__ __forceinline__ void dropout_part(const DropoutArgs& args, Factors factors) {
  float4 x[kElementwiseFours];
#pragma unroll
  for (int four = 0; four < kElementwiseFours; ++four)
    x[four] = load_four<kWhole>(static_cast<const T*>(args.x), four_begin(four), args.size);
#pragma unroll
  for (int four = 0; four < kElementwiseFours; ++four) {
    const int64_t begin = four_begin(four);
    const Philox4 bits = philox(args.key, static_cast<uint64_t>(begin) / 4);
    const auto factor = [&](uint32_t b) { return philox_uniform(b) >= factors.threshold ? factors.keep : 0.0f; };
    const float4 y = {x[four].x * factor(bits[0]), x[four].y * factor(bits[1]), x[four].z * factor(bits[2]),
                      x[four].w * factor(bits[3])};
    store_four<kWhole>(static_cast<T*>(args.y), begin, args.size, y);
  }
}

template <class T>
__global__ void __launch_bounds__(kElementwiseThreads)
    dropout_kernel(const DropoutArgs args, Factors factors, bool aligned) {
  elementwise_block(aligned, args.size, [&](auto whole) { dropout_part<decltype(whole)::value, T>(args, factors); });
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void dropout_cuda(const DropoutArgs& args, CudaQueue& queue) {
  if (args.size == 0) return;
  const Factors factors = {static_cast<float>(args.p), static_cast<float>(1.0 / (1.0 - args.p))};
  with_type(args.type, [&](auto number) {
    using T = decltype(number);
    const bool aligned = begins_a_four<T>(args.x) && begins_a_four<T>(args.y);
    launch("dropout", queue, {elementwise_blocks(args.size), kElementwiseThreads}, dropout_kernel<T>, args, factors,
           aligned);
  });
}

}  // namespace megalodon::ops
