// Rows of logits to losses and to gradients, a block of threads to a row. Forward: one read, 4 bytes a logit; every
// thread keeps the largest logit that it has met and Σ exp(l − largest), which is scaled down when a larger one comes,
// and at the end the block brings its pairs together. Backward: one read and one write, 8 bytes a logit, or 6 where the
// gradient is written as bfloat16. Both run at the speed of memory: one exponential and a quarter of another per 4
// bytes. A thread has four vectors of four on their way at a time.
//
// Where a vocabulary is no multiple of four, rows begin anywhere: a few single logits lead up to the first whole vector
// of a row and a few follow the last one.
#include "ops/cuda_kernel.cuh"
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"

namespace megalodon::ops {
namespace {

using namespace cuda;

constexpr int kMostThreads = 512;
constexpr int kVectors = 4;  // of a thread at a time: 64 bytes; some 100 KiB of a multiprocessor are in flight then

/// Elements [0, head) and [tail(), size) of a row are single, between them there are `vectors` of four.
struct RowShape {
  int size, head, vectors;
  __device__ int tail() const { return head + 4 * vectors; }
};

/// Of row `r`; `aligned`: vectors may begin at every fourth element of the array.
__device__ __forceinline__ RowShape row_shape(int64_t r, int size, bool aligned) {
  if (!aligned) return {size, size, 0};
  const int head = min(size, static_cast<int>(-(r * size) & 3));
  return {size, head, (size - head) / 4};
}

/// Calls use(i) for the single elements that are this thread's.
template <class Use>
__device__ __forceinline__ void for_each_single(const RowShape& shape, const Use& use) {
  for (int i = static_cast<int>(threadIdx.x); i < shape.head; i += static_cast<int>(blockDim.x)) use(i);
  for (int i = shape.tail() + static_cast<int>(threadIdx.x); i < shape.size; i += static_cast<int>(blockDim.x)) use(i);
}

/// Calls use(vectors, begins) for this thread's vectors, kVectors at a time: elements begins[k] to begins[k] + 3 of the
/// row. Behind the last vector begins[k] is the row's size and the vector holds -inf.
template <class Use>
__device__ __forceinline__ void for_each_vectors(const float* row, const RowShape& shape, const Use& use) {
  const int threads = static_cast<int>(blockDim.x);
  for (int first = static_cast<int>(threadIdx.x); first < shape.vectors; first += kVectors * threads) {
    float4 x[kVectors];
    int begins[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int vector = first + k * threads;
      const bool inside = vector < shape.vectors;
      begins[k] = inside ? shape.head + 4 * vector : shape.size;
      x[k] = inside ? load4(row + begins[k]) : float4{-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    }
    use(x, begins);
  }
}

/// Σ exp(logit − max) of some logits, max the largest of them. A NaN among them ends up in `sum`.
struct Running {
  float max = -INFINITY, sum = 0;

  /// Makes ready for numbers that are no larger than `largest`; returns what to subtract from them. Where all is -inf so
  /// far that is 0, since -inf minus itself would be NaN.
  __device__ float rescale(float largest) {
    const float now = fmaxf(max, largest), shift = now == -INFINITY ? 0.0f : now;
    sum *= expf(max - shift);
    max = now;
    return shift;
  }
  __device__ void add(float x) {
    const float shift = rescale(x);
    sum += expf(x - shift);
  }
  __device__ void add(const float4 (&x)[kVectors]) {
    float largest = -INFINITY, more = 0;
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      largest = fmaxf(largest, fmaxf(fmaxf(x[k].x, x[k].y), fmaxf(x[k].z, x[k].w)));
    const float shift = rescale(largest);
#pragma unroll
    for (int k = 0; k < kVectors; ++k)
      more += (expf(x[k].x - shift) + expf(x[k].y - shift)) + (expf(x[k].z - shift) + expf(x[k].w - shift));
    sum += more;
  }
};

__device__ __forceinline__ float block_max(float x, float* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  x = warp_max(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_max(lane < static_cast<int>(blockDim.x) / kWarp ? shared[lane] : -INFINITY);
  __syncthreads();
  return x;
}

__global__ void __launch_bounds__(kMostThreads) forward_kernel(const CrossEntropyForwardArgs args, bool aligned) {
  __shared__ float maxima[kWarp];
  __shared__ double sums[kWarp];
  const int64_t r = blockIdx.x, target = args.targets[r];
  if (target == kIgnoredTarget) {
    if (threadIdx.x == 0) args.nll[r] = args.log_sum[r] = 0;
    return;
  }
  const float* row = args.logits + r * args.vocabulary;
  const RowShape shape = row_shape(r, static_cast<int>(args.vocabulary), aligned);
  Running mine;
  for_each_vectors(row, shape, [&](const float4(&x)[kVectors], const int(&)[kVectors]) { mine.add(x); });
  for_each_single(shape, [&](int i) { mine.add(row[i]); });
  const float max = block_max(mine.max, maxima);
  const double sum = block_sum(static_cast<double>(mine.sum) * expf(mine.max - max), sums);
  if (threadIdx.x != 0) return;
  const bool known = target >= 0 && target < args.vocabulary;
  const float log_sum = known ? static_cast<float>(log(sum)) : NAN;
  args.log_sum[r] = max + log_sum;
  args.nll[r] = known ? (max - row[target]) + log_sum : NAN;  // this order: a small loss keeps its digits
}

/// Writes value_of(logit, i) for every element; `row` is read where kReads, else the logit is 0.
template <bool kReads, class T, class ValueOf>
__device__ __forceinline__ void write_row(const float* row, T* to, const RowShape& shape, const ValueOf& value_of) {
  if constexpr (kReads) {
    for_each_vectors(row, shape, [&](const float4(&x)[kVectors], const int(&begins)[kVectors]) {
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        const int i = begins[k];
        if (i < shape.size)
          store4(to + i, float4{value_of(x[k].x, i), value_of(x[k].y, i + 1), value_of(x[k].z, i + 2),
                                value_of(x[k].w, i + 3)});
      }
    });
  } else {
    for (int vector = static_cast<int>(threadIdx.x); vector < shape.vectors; vector += static_cast<int>(blockDim.x)) {
      const float value = value_of(0, 0);
      store4(to + shape.head + 4 * vector, float4{value, value, value, value});
    }
  }
  for_each_single(shape, [&](int i) { to[i] = from_float<T>(value_of(kReads ? row[i] : 0.0f, i)); });
}

template <class T>
__global__ void __launch_bounds__(kMostThreads) backward_kernel(const CrossEntropyBackwardArgs args, bool aligned) {
  const int64_t r = blockIdx.x, target = args.targets[r];
  const float* row = args.logits + r * args.vocabulary;
  T* to = static_cast<T*>(args.dlogits) + r * args.vocabulary;
  const RowShape shape = row_shape(r, static_cast<int>(args.vocabulary), aligned);
  const float log_sum = args.log_sum[r], dnll = args.dnll[r];
  if (target == kIgnoredTarget || !isfinite(log_sum)) {
    // exp() of a NaN might be anything: bad losses stay visible.
    const float value = target == kIgnoredTarget ? 0.0f : NAN;
    write_row<false>(row, to, shape, [&](float, int) { return value; });
  } else {
    const int index = static_cast<int>(target);  // in the vocabulary, or log_sum would be NaN
    write_row<true>(row, to, shape, [&](float logit, int i) {
      const float value = expf(logit - log_sum) * dnll;
      return i == index ? value - dnll : value;
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/// Whole warps, so many that each thread has kVectors vectors of a row at least, where the row is that long.
unsigned threads_of(int64_t vocabulary) {
  const int64_t wanted = divide_up(divide_up(vocabulary, 4 * kVectors), kWarp) * kWarp;
  return static_cast<unsigned>(wanted < kMostThreads ? wanted : kMostThreads);
}

}  // namespace

void cross_entropy_forward_cuda(const CrossEntropyForwardArgs& args, CudaQueue& queue) {
  if (args.rows == 0) return;
  launch("linear_cross_entropy", queue, {static_cast<unsigned>(args.rows), threads_of(args.vocabulary)}, forward_kernel,
         args, in_fours(args.logits, 4));
}

void cross_entropy_backward_cuda(const CrossEntropyBackwardArgs& args, CudaQueue& queue) {
  if (args.rows == 0) return;
  with_type(args.dlogits_type, [&](auto number) {
    using T = decltype(number);
    const bool aligned = in_fours(args.logits, 4) && in_fours(static_cast<const T*>(args.dlogits), 4);
    launch("linear_cross_entropy", queue, {static_cast<unsigned>(args.rows), threads_of(args.vocabulary)},
           backward_kernel<T>, args, aligned);
  });
}

}  // namespace megalodon::ops
