// rotary on NVIDIA GPUs, at the speed of memory: x is read once and y written once, 8 bytes an element, 4 in bfloat16.
// A thread turns the same four neighbours (two pairs) of one token in every head, so that a sine is computed once per
// token; a block takes as many whole tokens as it has threads for. The next head's numbers are on their way while the
// sines are computed and while this head's are written.
#include <algorithm>

#include "ops/rotary/rotary_kernel.h"
#include "ops/rotary/rotate.cuh"

namespace megalodon::ops {
namespace {

constexpr int kThreads = 256;

/// What a block does: `tokens` whole tokens of `units` threads each, or rounds of kThreads units of one token.
struct Blocks {
  int tokens, units;
};

template <class T, int kWide>
__global__ void __launch_bounds__(kThreads) rotary_kernel(RotaryArgs a, Blocks blocks) {
  for (int item = static_cast<int>(threadIdx.x); item < blocks.tokens * blocks.units; item += kThreads) {
    const int64_t token = static_cast<int64_t>(blockIdx.x) * blocks.tokens + item / blocks.units;
    if (token >= a.tokens) return;
    const int at = item % blocks.units * kWide;
    const int64_t first = token * a.heads * a.head_dim + at;
    const T* x = static_cast<const T*>(a.x) + first;
    T* y = static_cast<T*>(a.y) + first;
    const int64_t position = a.position[token];
    cuda::Numbers<kWide> next = cuda::load_numbers<kWide>(x);
    const cuda::Turn<kWide> turn = cuda::turn_of<kWide>(position, a.frequencies + at / 2);
    const float sign = a.inverse ? -1.0f : 1.0f;
    for (int64_t h = 0; h < a.heads; ++h, y += a.head_dim) {
      const cuda::Numbers<kWide> numbers = next;
      x += a.head_dim;
      if (h + 1 < a.heads) next = cuda::load_numbers<kWide>(x);
      cuda::store_numbers<kWide>(y, cuda::rotate(numbers, turn, sign));
    }
  }
}

// ---- launch ---------------------------------------------------------------------------------------------------------

template <class T, int kWide>
void run(const RotaryArgs& args, CudaQueue& queue) {
  const int units = static_cast<int>(args.head_dim / kWide);
  const Blocks blocks{std::max(1, kThreads / units), units};
  const auto grid = static_cast<unsigned>(cuda::divide_up(args.tokens, blocks.tokens));
  cuda::launch("rotary", queue, {grid, kThreads}, rotary_kernel<T, kWide>, args, blocks);
}

}  // namespace

void rotary_cuda(const RotaryArgs& args, CudaQueue& queue) {
  if (args.tokens == 0 || args.heads == 0 || args.head_dim == 0) return;
  cuda::with_type(args.type, [&](auto type) {
    using T = decltype(type);
    const bool fours = cuda::in_fours(static_cast<const T*>(args.x), args.head_dim) &&
                       cuda::in_fours(static_cast<const T*>(args.y), args.head_dim);
    (fours ? run<T, 4> : run<T, 2>)(args, queue);
  });
}

}  // namespace megalodon::ops
