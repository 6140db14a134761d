// cached_attention on a GPU: two launches whatever the position, so that a recorded step serves all that follow.
//
// attend_span: a block for each span of 32 keys of a head of a row, as many as the caches have room for; those behind
// the row's position return at once. A block first stores the call's steps that lie in its span, of its head: nobody
// else reads or writes those. Scores by a warp for two keys; values by groups of threads that each hold four columns
// and walk over their share of the keys, so that narrow values keep a block busy too. combine_spans adds up what the
// row's spans left.
//
// Bound: the keys and values of the open chunk, once, H (K + V) numbers a step, and V float32 for a span, written and
// read. On an H100 (3.35 TB/s) 2,048 steps of a layer of mega1.3B, bfloat16 2 (256 + 2,048) wide, are 19 MB, 5.6 µs, and
// the spans' sums 2 MB. Not measured yet.
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
constexpr int kMostSteps = static_cast<int>(kCachedAttentionSteps);
static_assert(kSpan == kWarp, "a warp makes the exponentials of a span");

struct SpanArgs {
  CachedAttentionArgs a;
  int64_t spans;    // that the caches have room for
  float* values;    // [B,H,spans,L,V]: Σ e^(s − maximum) v
  float2* softmax;  // [B,H,spans,L]: maximum and Σ e^(s − maximum)
};

/// Where a block stands.
struct Place {
  int64_t b, h, span, first;  // the span's first key
  CachedAttentionRow row;

  __device__ explicit Place(const CachedAttentionArgs& a)
      : b(blockIdx.z), h(blockIdx.y), span(blockIdx.x), first(span * kSpan), row(a.rows[b]) {}
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
    const Step* from = static_cast<const Step*>(steps) + ((at.b * a.L + l) * a.H + at.h) * width;
    Cached* to = cache + (key * a.H + at.h) * width;
    for (int64_t e = threadIdx.x; e < width; e += kThreads) to[e] = from_float<Cached>(to_float(from[e]));
  }
}

/// scores[l][j] = q_l · k_j of the span's first `count` keys.
template <class Step, class Cached, int kSteps, int kWide>
__device__ __forceinline__ void score_span(const CachedAttentionArgs& a, const Place& at, int count,
                                           float (&scores)[kSteps][kSpan]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const Cached* k = static_cast<const Cached*>(at.row.k) + (at.first * a.H + at.h) * a.K;
  const Step* q = static_cast<const Step*>(a.q) + (at.b * a.L * a.H + at.h) * a.K;
  float sum[kKeysOfWarp][kSteps] = {};
  for (int64_t e = kWide * lane; e < a.K; e += kWide * kWarp) {
    float x[kKeysOfWarp][kWide] = {};
#pragma unroll
    for (int n = 0; n < kKeysOfWarp; ++n)
      if (const int j = warp + n * kWarps; j < count) load_wide(k + j * a.H * a.K + e, x[n]);
#pragma unroll
    for (int l = 0; l < kSteps; ++l) {
      if (l >= a.L) break;
      float of_q[kWide];
      load_wide(q + l * a.H * a.K + e, of_q);
#pragma unroll
      for (int n = 0; n < kKeysOfWarp; ++n)
#pragma unroll
        for (int u = 0; u < kWide; ++u) sum[n][l] = fmaf(of_q[u], x[n][u], sum[n][l]);
    }
  }
#pragma unroll
  for (int n = 0; n < kKeysOfWarp; ++n)
#pragma unroll
    for (int l = 0; l < kSteps; ++l) {
      const float score = warp_sum(sum[n][l]);
      if (lane == 0) scores[l][warp + n * kWarps] = score;
    }
}

/// The scores of one step to e^(s − maximum), 0 where it does not see the key. A warp's work: a lane for each key.
__device__ __forceinline__ void softmax_span(int64_t seen, float* scores, float2* softmax) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool sees = lane < seen;
  const float maximum = warp_max(sees ? scores[lane] : -INFINITY);
  const float p = sees ? expf(scores[lane] - maximum) : 0.0f;
  const float sum = warp_sum(p);
  scores[lane] = p;
  if (lane == 0) *softmax = {maximum, sum};
}

/// values[l] = Σ_j scores[l][j] v_j over the span's first `count` keys. Groups of threads share the keys between them.
template <class Cached, int kSteps, int kWide>
__device__ __forceinline__ void add_values(const CachedAttentionArgs& a, const Place& at, int count,
                                           const float (&scores)[kSteps][kSpan], float* values) {
  __shared__ float sums[kThreads][kWide];
  const auto columns = static_cast<int>(divide_up(a.V, kWide));
  const int width = columns < kThreads ? columns : kThreads;  // threads of a group
  const int groups = kThreads / width < kSpan ? kThreads / width : kSpan;
  const int thread = static_cast<int>(threadIdx.x), group = thread / width;
  const int64_t stride = a.H * a.V;
  const Cached* v = static_cast<const Cached*>(at.row.v) + (at.first * a.H + at.h) * a.V;
  for (int64_t begin = 0; begin < a.V; begin += kWide * width) {
    const int64_t e = begin + kWide * (thread % width);
    const bool works = e < a.V && group < groups;
    float sum[kSteps][kWide] = {};
    if (works) {
#pragma unroll 8
      for (int j = group; j < count; j += groups) {
        float x[kWide];
        load_wide(v + j * stride + e, x);
#pragma unroll
        for (int l = 0; l < kSteps; ++l)
#pragma unroll
          for (int u = 0; u < kWide; ++u) sum[l][u] = fmaf(scores[l][j], x[u], sum[l][u]);
      }
    }
#pragma unroll
    for (int l = 0; l < kSteps; ++l) {
      if (l >= a.L) break;
      if (groups > 1) {
#pragma unroll
        for (int u = 0; u < kWide; ++u) sums[thread][u] = sum[l][u];
        __syncthreads();
        for (int g = 1; works && group == 0 && g < groups; ++g)
#pragma unroll
          for (int u = 0; u < kWide; ++u) sum[l][u] += sums[g * width + thread][u];
        __syncthreads();
      }
      if (works && group == 0)
#pragma unroll
        for (int u = 0; u < kWide; ++u) values[l * a.V + e + u] = sum[l][u];
    }
  }
}

/// Grid: spans, heads, rows.
template <class Step, class Cached, int kSteps, int kWide>
__global__ void __launch_bounds__(kThreads) attend_span(SpanArgs s) {
  __shared__ float scores[kSteps][kSpan];
  const CachedAttentionArgs& a = s.a;
  const Place at(a);
  const auto count = static_cast<int>(at.seen(a.L - 1));
  if (count <= 0) return;
  store_steps<Step>(a, at, a.k, a.K, static_cast<Cached*>(at.row.k));
  store_steps<Step>(a, at, a.v, a.V, static_cast<Cached*>(at.row.v));
  __syncthreads();
  score_span<Step, Cached, kSteps, kWide>(a, at, count, scores);
  __syncthreads();
  const int64_t part = ((at.b * a.H + at.h) * s.spans + at.span) * a.L;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (warp < a.L) softmax_span(at.seen(warp), scores[warp], s.softmax + part + warp);
  __syncthreads();
  add_values<Cached, kSteps, kWide>(a, at, count, scores, s.values + part * a.V);
}

constexpr int kCombineGroups = 8;

/// y. Grid: rows of [B,L,H], 32 columns of V; threads: those columns, groups that share the spans between them.
template <class Step>
__global__ void __launch_bounds__(kWarp* kCombineGroups) combine_spans(SpanArgs s) {
  __shared__ float sums[kCombineGroups][kWarp];
  const CachedAttentionArgs& a = s.a;
  const int64_t row = blockIdx.x, h = row % a.H, l = row / a.H % a.L, b = row / a.H / a.L;
  const int x = static_cast<int>(threadIdx.x), group = static_cast<int>(threadIdx.y);
  const int64_t count = (a.rows[b].position + l) / kSpan + 1, head = (b * a.H + h) * s.spans;
  const auto softmax = [&](int64_t span) { return s.softmax[(head + span) * a.L + l]; };
  float maximum = -INFINITY, sum = 0, y = 0;
  for (int64_t span = x; span < count; span += kWarp) maximum = fmaxf(maximum, softmax(span).x);
  maximum = warp_max(maximum);  // every warp has all spans
  for (int64_t span = x; span < count; span += kWarp) sum += expf(softmax(span).x - maximum) * softmax(span).y;
  sum = warp_sum(sum);
  const int64_t e = int64_t{blockIdx.y} * kWarp + x;
  if (e < a.V)
#pragma unroll 8
    for (int64_t span = group; span < count; span += kCombineGroups)
      y = fmaf(expf(softmax(span).x - maximum), s.values[((head + span) * a.L + l) * a.V + e], y);
  sums[group][x] = y;
  __syncthreads();
  if (group > 0 || e >= a.V) return;
  for (int g = 1; g < kCombineGroups; ++g) y += sums[g][x];
  static_cast<Step*>(a.y)[row * a.V + e] = from_float<Step>(y / sum);
}

// ---- host -----------------------------------------------------------------------------------------------------------

void check_args(const CachedAttentionArgs& a) {
  const auto within = [](int64_t value, int64_t most) { return value >= 1 && value <= most; };
  if (!within(a.L, kMostSteps) || !within(a.H, 65535) || !within(a.B, 65535))
    throw std::runtime_error("[cached_attention] expected 1 to " + std::to_string(kMostSteps) +
                             " steps, and heads and rows up to 65535, got " + std::to_string(a.L) + ", " +
                             std::to_string(a.H) + " and " + std::to_string(a.B));
}

template <class Step, class Cached>
void attend_spans(const SpanArgs& s, CudaQueue& queue) {
  const CachedAttentionArgs& a = s.a;
  const auto fours = [](const void* base, int64_t width) { return in_fours(static_cast<const Step*>(base), width); };
  const auto kernel = !fours(a.q, a.K) || a.V % 4 != 0 ? &attend_span<Step, Cached, kMostSteps, 1>
                      : a.L > 1                        ? &attend_span<Step, Cached, kMostSteps, 4>
                                                       : &attend_span<Step, Cached, 1, 4>;
  const dim3 grid(static_cast<unsigned>(s.spans), static_cast<unsigned>(a.H), static_cast<unsigned>(a.B));
  launch("cached_attention", queue, {grid, dim3(kThreads)}, kernel, s);
}

}  // namespace

void cached_attention_cuda(const CachedAttentionArgs& args, CudaQueue& queue) {
  check_args(args);
  const CachedAttentionArgs& a = args;
  SpanArgs s{a, divide_up(a.C, kSpan), nullptr, nullptr};
  s.values = queue.scratch_of<float>(a.B * a.H * s.spans * a.L * a.V);
  s.softmax = queue.scratch_of<float2>(a.B * a.H * s.spans * a.L);
  const dim3 grid(static_cast<unsigned>(a.B * a.L * a.H), static_cast<unsigned>(divide_up(a.V, kWarp)));
  with_type(a.step_type, [&](auto step) {
    with_type(a.type, [&](auto cached) { attend_spans<decltype(step), decltype(cached)>(s, queue); });
    launch("cached_attention", queue, {grid, dim3(kWarp, kCombineGroups)}, &combine_spans<decltype(step)>, s);
  });
}

}  // namespace megalodon::ops
