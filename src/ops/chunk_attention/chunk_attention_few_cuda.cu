// A few queries read every key and value once, in few_queries: blocks over ranges of keys, so that one stream fills the
// GPU too, and combine_ranges adds up what they found. Who decodes over a cache has cached_attention for that; this is
// for sliding windows, whose keys lie in none, and for few steps that go on into the next chunk.
#include <algorithm>

#include "ops/chunk_attention/chunk_attention_cuda.cuh"

namespace megalodon::ops {
namespace {

using namespace cuda;

constexpr int64_t kFewQueries = 8;

struct FewArgs {
  ChunkAttentionArgs a;
  int64_t first, keys, ranges;  // ranges of `keys` keys from `first` on, on the axis of prior and new keys
  float* y;                     // [B,H,ranges,L,V], not divided by the sums yet
  float2* softmax;              // [B,H,ranges,L]: maximum and sum
  float dropout, keep;
};

/// Rows of head h of row b: prior ones, then new ones.
template <class Number>
__device__ __forceinline__ const Number* key_row(const ChunkAttentionArgs& a, const void* prior, const void* own,
                                                 int64_t key, int64_t b, int64_t h, int64_t width) {
  return key < a.T ? static_cast<const Number*>(prior) + ((b * a.T + key) * a.H + h) * width
                   : static_cast<const Number*>(own) + ((b * a.L + key - a.T) * a.H + h) * width;
}

/// scores [L,keys] of the block's keys from..from + count on; −infinity where not visible. A warp per key.
template <class Number, int kQueries, int kWide>
__device__ void few_scores(const FewArgs& f, int64_t from, int count, int64_t b, int64_t h, const float* q,
                           float* scores) {
  const ChunkAttentionArgs& a = f.a;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int j = static_cast<int>(threadIdx.x) / kWarp; j < count; j += kWarpsPerBlock) {
    const int64_t key = from + j;
    const Number* k = key_row<Number>(a, a.prior_k, a.k, key, b, h, a.K);
    float sum[kQueries] = {};
#pragma unroll 2
    for (int64_t e = kWide * lane; e < a.K; e += kWide * kWarp) {
      float x[kWide];
      load_wide(k + e, x);
#pragma unroll
      for (int l = 0; l < kQueries; ++l)
        if (l < a.L)
#pragma unroll
          for (int u = 0; u < kWide; ++u) sum[l] += x[u] * q[l * a.K + e + u];
    }
#pragma unroll
    for (int l = 0; l < kQueries; ++l) {
      if (l >= a.L) break;
      const float score = warp_sum(sum[l]);
      if (lane == 0) scores[l * f.keys + j] = key >= a.begin[b * a.L + l] && key <= a.T + l ? score : -INFINITY;
    }
  }
}

/// scores -> exp(score − maximum) with dropout; the maximum and the sum go to `softmax`. A warp per query.
__device__ inline void few_softmax(const FewArgs& f, int64_t from, int count, int64_t b, int64_t h, float* scores,
                                   float2* softmax) {
  const ChunkAttentionArgs& a = f.a;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, l = static_cast<int>(threadIdx.x) / kWarp;
  if (l >= a.L) return;
  float* s = scores + l * f.keys;
  float maximum = -INFINITY, sum = 0;
  for (int j = lane; j < count; j += kWarp) maximum = fmaxf(maximum, s[j]);
  maximum = warp_max(maximum);
  for (int j = lane; j < count; j += kWarp) {
    float p = s[j] == -INFINITY ? 0.0f : expf(s[j] - maximum);
    sum += p;
    if (f.dropout > 0) {
      const Philox4 bits = attention_dropout_bits(a.dropout_key, b, h, l, (from + j) / 4);
      const int64_t which = (from + j) % 4;
      const uint32_t mine = which < 2 ? (which == 0 ? bits[0] : bits[1]) : (which == 2 ? bits[2] : bits[3]);
      p *= philox_uniform(mine) >= f.dropout ? f.keep : 0.0f;
    }
    s[j] = p;
  }
  sum = warp_sum(sum);
  if (lane == 0) softmax[l] = {maximum, sum};
}

/// One range of keys for all queries of a row and head. Grid: ranges, heads, rows. Keys and values are read once.
template <class Number, int kQueries, int kWide>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock) few_queries(FewArgs f) {
  const ChunkAttentionArgs& a = f.a;
  auto* q = dynamic_shared<float>();  // [L,K]
  float* scores = q + a.L * a.K;      // [L,keys]
  const int64_t range = blockIdx.x, h = blockIdx.y, b = blockIdx.z;
  const int64_t end = min(f.first + (range + 1) * f.keys, a.T + a.L);
  const int64_t from = max(f.first + range * f.keys, a.begin[b * a.L]);  // later queries see nothing before it
  const int count = static_cast<int>(max(end - from, int64_t{0}));
  for (int64_t i = threadIdx.x; i < a.L * a.K; i += blockDim.x)
    q[i] = a.scale * to_float(static_cast<const Number*>(a.q)[((b * a.L + i / a.K) * a.H + h) * a.K + i % a.K]);
  __syncthreads();
  few_scores<Number, kQueries, kWide>(f, from, count, b, h, q, scores);
  __syncthreads();
  const int64_t part = ((b * a.H + h) * f.ranges + range) * a.L;
  few_softmax(f, from, count, b, h, scores, f.softmax + part);
  __syncthreads();

  for (int64_t e = kWide * threadIdx.x; e < a.V; e += kWide * blockDim.x) {
    float sum[kQueries][kWide] = {};
    const auto add = [&](int j, int j_end) {
      if (j >= j_end) return;
      const Number* v = key_row<Number>(a, a.prior_v, a.v, from + j, b, h, a.V) + e;
#pragma unroll 8
      for (; j < j_end; ++j, v += a.H * a.V) {
        float x[kWide];
        load_wide(v, x);
#pragma unroll
        for (int l = 0; l < kQueries; ++l) {
          const float p = l < a.L ? scores[l * f.keys + j] : 0.0f;
#pragma unroll
          for (int u = 0; u < kWide; ++u) sum[l][u] += p * x[u];
        }
      }
    };
    const int prior = static_cast<int>(min(max(a.T - from, int64_t{0}), int64_t{count}));
    add(0, prior);
    add(prior, count);
#pragma unroll
    for (int l = 0; l < kQueries; ++l)
      if (l < a.L)
#pragma unroll
        for (int u = 0; u < kWide; ++u) f.y[(part + l) * a.V + e + u] = sum[l][u];
  }
}

constexpr int kCombineGroups = 8;

/// y and lse from the ranges' parts. Grid: rows of [B,L,H], 32 columns of V; threads: those columns, groups of ranges.
template <class Y>
__global__ void __launch_bounds__(kWarp* kCombineGroups) combine_ranges(FewArgs f) {
  auto* weights = dynamic_shared<float>();  // [ranges]
  __shared__ float sums[kCombineGroups][kWarp], total_sum[32];
  const ChunkAttentionArgs& a = f.a;
  const int64_t row = blockIdx.x, h = row % a.H, l = row / a.H % a.L, b = row / a.H / a.L;
  const int x = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.y), thread = group * kWarp + x;
  const int64_t head = (b * a.H + h) * f.ranges;
  float maximum = -INFINITY;
  for (int64_t r = x; r < f.ranges; r += kWarp) maximum = fmaxf(maximum, f.softmax[(head + r) * a.L + l].x);
  maximum = warp_max(maximum);  // every warp has all ranges
  float sum = 0;
  for (int64_t r = thread; r < f.ranges; r += kWarp * kCombineGroups) {
    const float2 part = f.softmax[(head + r) * a.L + l];
    weights[r] = part.y == 0 ? 0.0f : expf(part.x - maximum);  // 0: saw nothing
    sum += weights[r] * part.y;
  }
  sum = warp_sum(sum);
  if (x == 0) total_sum[group] = sum;
  __syncthreads();
  float total = 0;
  for (int g = 0; g < kCombineGroups; ++g) total += total_sum[g];

  const int64_t e = int64_t{blockIdx.y} * kWarp + x;
  float y = 0;
  if (e < a.V)
#pragma unroll 8
    for (int64_t r = group; r < f.ranges; r += kCombineGroups) y += weights[r] * f.y[((head + r) * a.L + l) * a.V + e];
  sums[group][x] = y;
  __syncthreads();
  if (group > 0) return;
  for (int g = 1; g < kCombineGroups; ++g) y += sums[g][x];
  if (e < a.V) static_cast<Y*>(a.y)[row * a.V + e] = from_float<Y>(y / total);
  if (blockIdx.y == 0 && x == 0) a.lse[(b * a.H + h) * a.L + l] = maximum + logf(total);
}

// ---- host -----------------------------------------------------------------------------------------------------------

/// The ranges of keys that a few queries are split over; none where they do not suit.
FewArgs find_ranges(const ChunkAttentionArgs& a) {
  constexpr int64_t kMostShared = 32 << 10, kFewestKeys = 16, kMostKeys = 256, kMostRanges = 8192;
  FewArgs f{a, 0, 0, 0, nullptr, nullptr, static_cast<float>(a.dropout), dropout_keep(a)};
  if (a.L > kFewQueries || a.L * a.K * 4 > kMostShared || a.H > 65535 || a.B > 65535) return f;
  f.first = a.phase >= 0 ? a.T - a.phase : std::max<int64_t>(0, a.T - a.window + 1);
  const int64_t all = a.T + a.L - f.first;
  f.keys = std::min(std::max(divide_up(all * a.B * a.H, 2 * kMultiprocessors), kFewestKeys), kMostKeys);
  f.ranges = divide_up(all, f.keys);
  if (f.ranges > kMostRanges) f.ranges = 0;
  return f;
}

template <class Number, int kQueries>
void run_few(const FewArgs& f, CudaQueue& queue) {
  const ChunkAttentionArgs& a = f.a;
  const auto fours = [](const void* base, int64_t width) { return in_fours(static_cast<const Number*>(base), width); };
  const bool wide = fours(a.k, a.K) && fours(a.v, a.V) &&
                    (a.T == 0 || (fours(a.prior_k, a.K) && fours(a.prior_v, a.V)));
  const dim3 grid(static_cast<unsigned>(f.ranges), static_cast<unsigned>(a.H), static_cast<unsigned>(a.B));
  const auto shared = static_cast<size_t>(a.L * (a.K + f.keys)) * sizeof(float);
  const auto kernel = wide ? few_queries<Number, kQueries, 4> : few_queries<Number, kQueries, 1>;
  launch(kOp, queue, {grid, kWarp * kWarpsPerBlock, shared}, kernel, f);
}

}  // namespace

bool cuda::chunk_attention_few_forward_cuda(const ChunkAttentionArgs& a, CudaQueue& queue) {
  FewArgs f = find_ranges(a);
  if (f.ranges == 0) return false;
  f.y = queue.scratch_of<float>(a.B * a.H * f.ranges * a.L * a.V);
  f.softmax = queue.scratch_of<float2>(a.B * a.H * f.ranges * a.L);
  with_type(a.type, [&](auto number) {
    (a.L == 1 ? run_few<decltype(number), 1> : run_few<decltype(number), kFewQueries>)(f, queue);
  });
  const dim3 grid(static_cast<unsigned>(a.B * a.L * a.H), static_cast<unsigned>(divide_up(a.V, kWarp)));
  with_type(a.y_type, [&](auto y) {
    const size_t shared = static_cast<size_t>(f.ranges) * sizeof(float);
    launch(kOp, queue, {grid, dim3(kWarp, kCombineGroups), shared}, combine_ranges<decltype(y)>, f);
  });
  return true;
}

}  // namespace megalodon::ops
