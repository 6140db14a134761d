// cached_attention on a GPU: two launches whatever the position, so that a recorded step serves all that follow.
//
// attend_span: a block for each span of 32 keys of a head of a row, as many as the caches have room for; those behind
// the row's position return at once. A block first stores the call's steps that lie in its span, of its head: nobody
// else reads or writes those. Scores by a warp for two keys; values by groups of threads that each hold four columns
// and walk over their share of the keys, so that narrow values keep a block busy too. Both for eight queries at a time;
// for the next eight of the head the span lies in L1. combine_spans adds up what the row's spans left.
//
// Bound: the keys and values of the open chunk, once, G (K + V) numbers a step, and H V float32 for a span, written and
// read. On an H100 (3.35 TB/s) 2,048 steps of a layer of mega1.3B, bfloat16 2 (256 + 2,048) wide, are 19 MB, 5.6 µs, and
// the spans' sums 2 MB; of Llama 2 70B, 8 (128 + 128) wide for 64 heads, 8.4 MB, 2.5 µs, and 4 MB. Not measured yet.
#include <stdexcept>
#include <string>

#include "ops/cached_attention/cached_attention_kernel.h"
#include "ops/cuda_kernel.cuh"

namespace megalodon::ops {
namespace {

using namespace cuda;

constexpr int kSpan = 32;  // keys: half of 2,048 of one stream with two heads are 64 blocks
constexpr int kWarps = 16, kThreads = kWarp * kWarps;
constexpr int kKeysOfWarp = kSpan / kWarps;
constexpr int kQueries = 8;  // that share a read of the span
static_assert(kSpan == kWarp && kQueries <= kWarps, "a warp makes the exponentials of a query's span");

struct SpanArgs {
  CachedAttentionArgs a;
  int64_t spans;    // that the caches have room for
  float* values;    // [B,G,spans,queries,V]: Σ e^(s − maximum) v
  float2* softmax;  // [B,G,spans,queries]: maximum and Σ e^(s − maximum)
};

/// Where a block stands.
struct Place {
  int64_t b, g, span, first;  // the span's first key
  CachedAttentionRow row;

  __device__ explicit Place(const CachedAttentionArgs& a)
      : b(blockIdx.z), g(blockIdx.y), span(blockIdx.x), first(span * kSpan), row(a.rows[b]) {}
  /// Keys of the span that the call's step l sees; none or less where they are all of later steps.
  __device__ int64_t seen(int64_t l) const {
    const int64_t upto = row.position + l + 1 - first;
    return upto < kSpan ? upto : kSpan;
  }
};

/// Of the call's k or v, rows of `width` numbers a head: those of the span go where the cache has them.
template <class Step, class Cached>
__device__ __forceinline__ void store_steps(const CachedAttentionArgs& a, const Place& at, const void* steps,
                                            int64_t width, Cached* cache) {
  for (int64_t l = 0; l < a.L; ++l) {
    const int64_t key = at.row.position + l;
    if (key < at.first || key >= at.first + kSpan) continue;
    const Step* from = static_cast<const Step*>(steps) + ((at.b * a.L + l) * a.G + at.g) * width;
    Cached* to = cache + (key * a.G + at.g) * width;
    for (int64_t e = threadIdx.x; e < width; e += kThreads) to[e] = from_float<Cached>(to_float(from[e]));
  }
}

/// scores[n][j] = q_n · k_j of the span's first `keys` keys, for `count` queries that lie in these rows of q.
template <class Step, class Cached, int kMost, int kWide>
__device__ __forceinline__ void score_span(const CachedAttentionArgs& a, const Place& at, int keys, int count,
                                           const int64_t (&rows)[kMost], float (&scores)[kMost][kSpan]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const Cached* k = static_cast<const Cached*>(at.row.k) + (at.first * a.G + at.g) * a.K;
  const Step* q = static_cast<const Step*>(a.q);
  float sum[kKeysOfWarp][kMost] = {};
  for (int64_t e = kWide * lane; e < a.K; e += kWide * kWarp) {
    float x[kKeysOfWarp][kWide] = {};
#pragma unroll
    for (int i = 0; i < kKeysOfWarp; ++i)
      if (const int j = warp + i * kWarps; j < keys) load_wide(k + j * a.G * a.K + e, x[i]);
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      if (n >= count) break;
      float of_q[kWide];
      load_wide(q + rows[n] * a.K + e, of_q);
#pragma unroll
      for (int i = 0; i < kKeysOfWarp; ++i)
#pragma unroll
        for (int u = 0; u < kWide; ++u) sum[i][n] = fmaf(of_q[u], x[i][u], sum[i][n]);
    }
  }
#pragma unroll
  for (int i = 0; i < kKeysOfWarp; ++i)
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      const float score = warp_sum(sum[i][n]);
      if (lane == 0) scores[n][warp + i * kWarps] = score;
    }
}

/// The scores of one of the head's queries to e^(s − maximum), 0 where it does not see the key. A warp's work: a lane for
/// each key.
__device__ __forceinline__ void softmax_span(const CachedAttentionArgs& a, const Place& at, int64_t query,
                                             float* scores, float2* softmax) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t step = a.step_of(query);
  const bool sees = lane < at.seen(step);
  float score = sees ? scores[lane] : -INFINITY;
  if (a.slope != nullptr)
    score = fmaf(a.slope[a.head_of(at.g, query)], static_cast<float>(at.first + lane - at.row.position - step), score);
  const float maximum = warp_max(score);
  const float p = sees ? expf(score - maximum) : 0.0f;
  const float sum = warp_sum(p);
  scores[lane] = p;
  if (lane == 0) *softmax = {maximum, sum};
}

/// values[n] = Σ_j scores[n][j] v_j over the span's first `keys` keys, for `count` queries. Groups of threads share the
/// keys between them.
template <class Cached, int kMost, int kWide>
__device__ __forceinline__ void add_values(const CachedAttentionArgs& a, const Place& at, int keys, int count,
                                           const float (&scores)[kMost][kSpan], float* values) {
  __shared__ float sums[kThreads][kWide];
  const auto columns = static_cast<int>(divide_up(a.V, kWide));
  const int width = columns < kThreads ? columns : kThreads;  // threads of a group
  const int groups = kThreads / width < kSpan ? kThreads / width : kSpan;
  const int thread = static_cast<int>(threadIdx.x), group = thread / width;
  const int64_t stride = a.G * a.V;
  const Cached* v = static_cast<const Cached*>(at.row.v) + (at.first * a.G + at.g) * a.V;
  for (int64_t begin = 0; begin < a.V; begin += kWide * width) {
    const int64_t e = begin + kWide * (thread % width);
    const bool works = e < a.V && group < groups;
    float sum[kMost][kWide] = {};
    if (works) {
#pragma unroll 8
      for (int j = group; j < keys; j += groups) {
        float x[kWide];
        load_wide(v + j * stride + e, x);
#pragma unroll
        for (int n = 0; n < kMost; ++n)
#pragma unroll
          for (int u = 0; u < kWide; ++u) sum[n][u] = fmaf(scores[n][j], x[u], sum[n][u]);
      }
    }
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      if (n >= count) break;
      if (groups > 1) {
#pragma unroll
        for (int u = 0; u < kWide; ++u) sums[thread][u] = sum[n][u];
        __syncthreads();
        for (int g = 1; works && group == 0 && g < groups; ++g)
#pragma unroll
          for (int u = 0; u < kWide; ++u) sum[n][u] += sums[g * width + thread][u];
        __syncthreads();
      }
      if (works && group == 0)
#pragma unroll
        for (int u = 0; u < kWide; ++u) values[n * a.V + e + u] = sum[n][u];
    }
  }
}

/// Grid: spans, heads of keys, rows. kMost queries at a time.
template <class Step, class Cached, int kMost, int kWide>
__global__ void __launch_bounds__(kThreads) attend_span(SpanArgs s) {
  __shared__ float scores[kMost][kSpan];
  __shared__ int64_t rows[kMost];
  const CachedAttentionArgs& a = s.a;
  const Place at(a);
  const auto keys = static_cast<int>(at.seen(a.L - 1));
  if (keys <= 0) return;
  store_steps<Step>(a, at, a.k, a.K, static_cast<Cached*>(at.row.k));
  store_steps<Step>(a, at, a.v, a.V, static_cast<Cached*>(at.row.v));
  const int64_t part = ((at.b * a.G + at.g) * s.spans + at.span) * a.queries();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  for (int64_t first = 0; first < a.queries(); first += kMost) {
    const auto count = static_cast<int>(a.queries() - first < kMost ? a.queries() - first : kMost);
    if (thread < count) rows[thread] = a.row_of(at.b, at.g, first + thread);
    __syncthreads();
    score_span<Step, Cached, kMost, kWide>(a, at, keys, count, rows, scores);
    __syncthreads();
    if (warp < count) softmax_span(a, at, first + warp, scores[warp], s.softmax + part + first + warp);
    __syncthreads();
    add_values<Cached, kMost, kWide>(a, at, keys, count, scores, s.values + (part + first) * a.V);
  }
}

constexpr int kCombineGroups = 8;

/// y. Grid: queries of [B,G,queries], 32 columns of V; threads: those columns, groups that share the spans between them.
template <class Step>
__global__ void __launch_bounds__(kWarp* kCombineGroups) combine_spans(SpanArgs s) {
  __shared__ float sums[kCombineGroups][kWarp];
  const CachedAttentionArgs& a = s.a;
  const int64_t n = blockIdx.x % a.queries(), g = blockIdx.x / a.queries() % a.G, b = blockIdx.x / a.queries() / a.G;
  const int x = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.y);
  const int64_t count = (a.rows[b].position + a.step_of(n)) / kSpan + 1, head = (b * a.G + g) * s.spans;
  const auto part = [&](int64_t span) { return (head + span) * a.queries() + n; };
  const auto softmax = [&](int64_t span) { return s.softmax[part(span)]; };
  float maximum = -INFINITY, sum = 0, y = 0;
  for (int64_t span = x; span < count; span += kWarp) maximum = fmaxf(maximum, softmax(span).x);
  maximum = warp_max(maximum);  // every warp has all spans
  for (int64_t span = x; span < count; span += kWarp) sum += expf(softmax(span).x - maximum) * softmax(span).y;
  sum = warp_sum(sum);
  const int64_t e = int64_t{blockIdx.y} * kWarp + x;
  if (e < a.V)
#pragma unroll 8
    for (int64_t span = group; span < count; span += kCombineGroups)
      y = fmaf(expf(softmax(span).x - maximum), s.values[part(span) * a.V + e], y);
  sums[group][x] = y;
  __syncthreads();
  if (group > 0 || e >= a.V) return;
  for (int g = 1; g < kCombineGroups; ++g) y += sums[g][x];
  static_cast<Step*>(a.y)[a.row_of(b, g, n) * a.V + e] = from_float<Step>(y / sum);
}

// ---- host -----------------------------------------------------------------------------------------------------------

void check_args(const CachedAttentionArgs& a) {
  const auto within = [](int64_t value, int64_t most) { return value >= 1 && value <= most; };
  if (!within(a.L, kCachedAttentionSteps) || !within(a.G, 65535) || !within(a.B, 65535))
    throw std::runtime_error("[cached_attention] expected 1 to " + std::to_string(kCachedAttentionSteps) +
                             " steps, and heads of keys and rows up to 65535, got " + std::to_string(a.L) + ", " +
                             std::to_string(a.G) + " and " + std::to_string(a.B));
}

template <class Step, class Cached>
void attend_spans(const SpanArgs& s, CudaQueue& queue) {
  const CachedAttentionArgs& a = s.a;
  const auto fours = [](const void* base, int64_t width) { return in_fours(static_cast<const Step*>(base), width); };
  const auto kernel = !fours(a.q, a.K) || a.V % 4 != 0 ? &attend_span<Step, Cached, kQueries, 1>
                      : a.queries() > 1                ? &attend_span<Step, Cached, kQueries, 4>
                                                       : &attend_span<Step, Cached, 1, 4>;
  const dim3 grid(static_cast<unsigned>(s.spans), static_cast<unsigned>(a.G), static_cast<unsigned>(a.B));
  launch("cached_attention", queue, {grid, dim3(kThreads)}, kernel, s);
}

}  // namespace

void cached_attention_cuda(const CachedAttentionArgs& args, CudaQueue& queue) {
  check_args(args);
  const CachedAttentionArgs& a = args;
  SpanArgs s{a, divide_up(a.C, kSpan), nullptr, nullptr};
  s.values = queue.scratch_of<float>(a.B * a.G * s.spans * a.queries() * a.V);
  s.softmax = queue.scratch_of<float2>(a.B * a.G * s.spans * a.queries());
  const dim3 grid(static_cast<unsigned>(a.B * a.G * a.queries()), static_cast<unsigned>(divide_up(a.V, kWarp)));
  with_type(a.step_type, [&](auto step) {
    with_type(a.type, [&](auto cached) { attend_spans<decltype(step), decltype(cached)>(s, queue); });
    launch("cached_attention", queue, {grid, dim3(kWarp, kCombineGroups)}, &combine_spans<decltype(step)>, s);
  });
}

}  // namespace megalodon::ops
