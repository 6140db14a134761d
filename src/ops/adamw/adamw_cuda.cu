// All of a model's tensors in a few launches: a launch carries the pointers of up to 64 of them in its parameters, and
// each of its blocks takes one chunk of one tensor. The update moves 28 bytes per element (4 reads, 3 writes), the sum
// of squares 4, both in one pass at the speed of memory. Each chunk's sum is a float64 of its own, and one block adds
// them in a fixed order: the same bits every time.
#include "ops/adamw/adamw_kernel.h"
#include "ops/cuda_kernel.cuh"

namespace megalodon::ops {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kFours = 2;  // of each array, on their way at a time
// 448 KiB of the update's traffic, some 20 µs of one multiprocessor: much more than a block costs to begin, and little
// enough that all multiprocessors end together.
constexpr int64_t kChunk = 1 << 14;
constexpr int kMostArrays = 64;  // below the 4 KiB that kernel parameters may have on every GPU

/// Tensors of one launch; chunk c of the launch belongs to the last one whose first_chunk is no larger.
template <class Arrays>
struct Batch {
  Arrays list[kMostArrays];
  unsigned first_chunk[kMostArrays];
  bool aligned[kMostArrays];  // vectors of four may begin at every fourth element
  int count = 0;
  unsigned chunks = 0;

  __device__ __forceinline__ int array_of(unsigned chunk) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_chunk[middle] <= chunk)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }
};

/// Elements begin to begin + size − 1 of an array: a block's own.
struct Chunk {
  int64_t begin;
  int size;
};

template <class Arrays>
__device__ __forceinline__ Chunk chunk_of(const Batch<Arrays>& batch, int array) {
  const int64_t begin = (blockIdx.x - batch.first_chunk[array]) * kChunk;
  const int64_t rest = batch.list[array].size - begin;
  return {begin, static_cast<int>(rest < kChunk ? rest : kChunk)};
}

__device__ __forceinline__ void update_element(const AdamWArgs& a, float shrink, float gradient, float& p, float& m,
                                               float& v) {
  const float g = gradient * a.gradient_scale;
  m = a.beta1 * m + a.rest1 * g;
  v = a.beta2 * v + a.rest2 * g * g;
  p = p * shrink - a.rate * (m / (sqrtf(v * a.inverse_correction) + a.eps));
}

__device__ __forceinline__ void update_four(const AdamWArgs& a, float shrink, float4 g, float4& p, float4& m,
                                            float4& v) {
  update_element(a, shrink, g.x, p.x, m.x, v.x);
  update_element(a, shrink, g.y, p.y, m.y, v.y);
  update_element(a, shrink, g.z, p.z, m.z, v.z);
  update_element(a, shrink, g.w, p.w, m.w, v.w);
}

/// The fours of a chunk; returns how many elements they are.
__device__ int update_fours(const AdamWArgs& args, const AdamWArrays& x, Chunk chunk) {
  const int fours = chunk.size / 4;
  auto* p_data = reinterpret_cast<float4*>(x.parameter + chunk.begin);
  auto* m_data = reinterpret_cast<float4*>(x.exp_avg + chunk.begin);
  auto* v_data = reinterpret_cast<float4*>(x.exp_avg_sq + chunk.begin);
  const auto* g_data = reinterpret_cast<const float4*>(x.gradient + chunk.begin);
  for (int first = static_cast<int>(threadIdx.x); first < fours; first += kFours * kThreads) {
    float4 g[kFours], p[kFours], m[kFours], v[kFours];
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      const int i = first + k * kThreads;
      if (i < fours) g[k] = g_data[i], p[k] = p_data[i], m[k] = m_data[i], v[k] = v_data[i];
    }
#pragma unroll
    for (int k = 0; k < kFours; ++k) {
      const int i = first + k * kThreads;
      if (i >= fours) continue;
      update_four(args, x.shrink, g[k], p[k], m[k], v[k]);
      p_data[i] = p[k], m_data[i] = m[k], v_data[i] = v[k];
    }
  }
  return 4 * fours;
}

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const __grid_constant__ Batch<AdamWArrays> batch, const __grid_constant__ AdamWArgs args) {
  const int array = batch.array_of(blockIdx.x);
  const AdamWArrays& x = batch.list[array];
  const Chunk chunk = chunk_of(batch, array);
  const int done = batch.aligned[array] ? update_fours(args, x, chunk) : 0;
  for (int i = done + static_cast<int>(threadIdx.x); i < chunk.size; i += kThreads) {
    const int64_t at = chunk.begin + i;
    update_element(args, x.shrink, x.gradient[at], x.parameter[at], x.exp_avg[at], x.exp_avg_sq[at]);
  }
}

__device__ __forceinline__ double square(float x) { return static_cast<double>(x) * x; }

constexpr int kFoursOfSum = 4;  // of the one array, on their way at a time

/// partial[chunk] = Σ x² of the chunk.
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const __grid_constant__ Batch<ConstArray> batch, double* partial) {
  __shared__ double shared[kWarp];
  const int array = batch.array_of(blockIdx.x);
  const Chunk chunk = chunk_of(batch, array);
  const float* x = batch.list[array].data + chunk.begin;
  const int fours = batch.aligned[array] ? chunk.size / 4 : 0;
  double sum = 0;
  for (int first = static_cast<int>(threadIdx.x); first < fours; first += kFoursOfSum * kThreads) {
    float4 four[kFoursOfSum];
#pragma unroll
    for (int k = 0; k < kFoursOfSum; ++k) {
      const int i = first + k * kThreads;
      four[k] = i < fours ? load4(x + 4 * i) : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (int k = 0; k < kFoursOfSum; ++k)
      sum += (square(four[k].x) + square(four[k].y)) + (square(four[k].z) + square(four[k].w));
  }
  for (int i = 4 * fours + static_cast<int>(threadIdx.x); i < chunk.size; i += kThreads) sum += square(x[i]);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

constexpr int kThreadsOfTotal = 1024;

/// One block: *total = Σ partial.
__global__ void __launch_bounds__(kThreadsOfTotal) total_kernel(const double* partial, int64_t count, double* total) {
  __shared__ double shared[kWarp];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreadsOfTotal) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *total = sum;
}

// ---------------------------------------------------------------------------------------------------------------------

bool is_aligned(const AdamWArrays& x) {
  return in_fours(x.parameter, 4) && in_fours(x.gradient, 4) && in_fours(x.exp_avg, 4) && in_fours(x.exp_avg_sq, 4);
}
bool is_aligned(const ConstArray& x) { return in_fours(x.data, 4); }

static_assert(sizeof(Batch<AdamWArrays>) + sizeof(AdamWArgs) <= 4096);

/// Calls use(batch) for the arrays that are not empty, kMostArrays at a time.
template <class Arrays, class Use>
void for_each_batch(const Arrays* list, int64_t count, const Use& use) {
  Batch<Arrays> batch;
  for (int64_t i = 0; i < count; ++i) {
    if (list[i].size == 0) continue;
    batch.list[batch.count] = list[i];
    batch.first_chunk[batch.count] = batch.chunks;
    batch.aligned[batch.count] = is_aligned(list[i]);
    batch.chunks += static_cast<unsigned>(divide_up(list[i].size, kChunk));
    if (++batch.count < kMostArrays) continue;
    use(batch);
    batch.count = 0, batch.chunks = 0;
  }
  if (batch.count > 0) use(batch);
}

}  // namespace

void adamw_cuda(const AdamWArgs& args, CudaQueue& queue) {
  for_each_batch(args.list, args.count, [&](const Batch<AdamWArrays>& batch) {
    launch("adamw", queue, {batch.chunks, kThreads}, adamw_kernel, batch, args);
  });
}

void sum_of_squares_cuda(const SumOfSquaresArgs& args, CudaQueue& queue) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < args.count; ++i) chunks += divide_up(args.list[i].size, kChunk);
  double* partial = queue.scratch_of<double>(chunks > 0 ? chunks : 1);
  int64_t done = 0;
  for_each_batch(args.list, args.count, [&](const Batch<ConstArray>& batch) {
    launch("sum_of_squares", queue, {batch.chunks, kThreads}, squares_kernel, batch, partial + done);
    done += batch.chunks;
  });
  launch("sum_of_squares", queue, {1, kThreadsOfTotal}, total_kernel, partial, chunks, args.sum);
}

}  // namespace megalodon::ops
