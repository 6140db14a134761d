// Heads are wide here (keys of 64 to 256, values of 128 to 2048 numbers), so nearly all the work is in products that
// cuBLASLt does well, and scores of a block of queries are cheap beside them: 4 + 4 + 2 + 2 bytes (written in float32,
// read, probabilities written and read in bfloat16) for 2 (K + V) FLOPs, and they stay in the L2 cache.
//
// Forward, per head and block of 512 queries or more of as many chunks as fit in kScoreBytes: scores = scale · q kᵀ as
// one strided batch over the chunks, softmax_rows (a warp per query; probabilities replace the scores in place),
// y = p v. A block sees its keys up to its last query's, so a chunk of 2048 costs 1.25 of its visible pairs.
//
// Backward, per head and block of 512 keys: s = q kᵀ and dp = dy vᵀ of all queries that see them, gradient_rows makes
// p and ds of them in place, dv = pᵀ dy and dk = dsᵀ q are written once, dq is added up in float32. Every sum has one
// order: two runs give the same bits.
//
// A few queries have kernels of their own: chunk_attention_few_cuda.cu.
#include <algorithm>
#include <vector>

#include "ops/chunk_attention/chunk_attention_cuda.cuh"
#include "ops/linear/cublas_product.h"

namespace megalodon::ops {
namespace {

using namespace cuda;

// Scores held at once. The L2 cache of an H100 has 50 MB; below 32 MB products of a head are too short to fill it.
constexpr int64_t kScoreBytes = int64_t{32} << 20;
constexpr int64_t kBlock = 512;          // queries of a forward block, keys of a backward block, if not more
constexpr int64_t kColumnsAligned = 8;   // so that rows of either type begin at 16 bytes
constexpr float kLowest = -3.0e38f;

constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

/// `count` stretches of the sequence, equally far apart in memory, whose queries see keys of their own stretch and the
/// `prior` last prior keys at most. Those are the keys of the stretch, 0 .. prior + length, and query i of it sees none
/// behind key prior + i.
struct Stretches {
  int64_t count, first, step;              // stretch n begins at row first + n · step of [B·L]
  int64_t length;                          // queries
  int64_t prior, first_prior, prior_step;  // prior keys begin at row first_prior + n · prior_step of [B·T]
  int64_t window;                          // no query sees more keys

  Stretches part(int64_t from, int64_t size) const {
    Stretches s = *this;
    s.count = size, s.first += from * step, s.first_prior += from * prior_step;
    return s;
  }
};

/// A rectangle of scores for every stretch, [count, rows, columns_aligned]: first prior keys, then, from column `seam`
/// on, own ones, either of them possibly none.
struct Block {
  Stretches s;
  int64_t first_query, rows;
  int64_t first_prior_key, prior_columns;
  int64_t first_own_key, own_columns;  // counted from the stretch's first own key
  int64_t seam, columns_aligned;

  Block(const Stretches& of, int64_t query, int64_t query_end, int64_t key, int64_t key_end)
      : s(of), first_query(query), rows(query_end - query), first_prior_key(key) {
    prior_columns = std::max<int64_t>(0, std::min(key_end, s.prior) - key);
    first_own_key = std::max<int64_t>(0, key - s.prior);
    own_columns = std::max<int64_t>(0, key_end - s.prior - first_own_key);
    seam = round_up(prior_columns, kColumnsAligned);
    columns_aligned = round_up(seam + own_columns, kColumnsAligned);
  }
};

/// What the kernels over rows of a block share.
struct RowArgs {
  Block block;
  const int64_t* begin;
  float* lse;
  int64_t L, T, H, h;
  float dropout, keep;  // the probability, and 1 / (1 − it)
  uint64_t dropout_key;
};

// ---- device ---------------------------------------------------------------------------------------------------------

/// The query of a row of the block, and the columns it sees: lo .. hi without prior_columns .. seam.
struct Row {
  int64_t b, t, in_head;  // in_head: of [B,H,L]
  int64_t first_axis;     // where key 0 of the stretch is on the axis of prior and new keys
  int lo, hi;
};

__device__ __forceinline__ Row find_row(const RowArgs& a, int64_t index) {
  const Block& block = a.block;
  const Stretches& s = block.s;
  const int64_t i = block.first_query + index % block.rows, start = s.first + index / block.rows * s.step;
  Row row;
  row.b = start / a.L, row.t = start % a.L + i;
  row.in_head = (row.b * a.H + a.h) * a.L + row.t;
  row.first_axis = a.T + start % a.L - s.prior;
  const int64_t lower = a.begin[row.b * a.L + row.t] - row.first_axis;
  int64_t lo = min(max(lower - block.first_prior_key, int64_t{0}), block.prior_columns);
  if (lo == block.prior_columns) lo = block.seam + max(lower - s.prior - block.first_own_key, int64_t{0});
  row.lo = static_cast<int>(lo);
  row.hi = static_cast<int>(block.own_columns > 0
                                ? block.seam + min(max(i + 1 - block.first_own_key, int64_t{0}), block.own_columns)
                                : block.prior_columns);
  return row;
}

__device__ __forceinline__ bool sees(const Block& block, const Row& row, int column) {
  return column >= row.lo && column < row.hi && (column < block.prior_columns || column >= block.seam);
}

/// 0 or 1 / (1 − p) for the keys of 4 neighbouring columns, as attention_dropout_factor() has them.
__device__ __forceinline__ void dropout_factors(const RowArgs& a, const Row& row, int column, float factor[4]) {
  const Block& block = a.block;
  const int64_t key = row.first_axis + (column < block.prior_columns
                                            ? block.first_prior_key + column
                                            : block.s.prior + block.first_own_key + column - block.seam);
  const Philox4 first = attention_dropout_bits(a.dropout_key, row.b, a.h, row.t, key / 4);
  const int offset = static_cast<int>(key % 4);
  const Philox4 second =
      offset == 0 ? first : attention_dropout_bits(a.dropout_key, row.b, a.h, row.t, key / 4 + 1);
  const uint32_t bits[8] = {first[0],  first[1],  first[2],  first[3],
                            second[0], second[1], second[2], second[3]};
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    uint32_t mine = bits[u];
#pragma unroll
    for (int shift = 1; shift < 4; ++shift) mine = offset == shift ? bits[u + shift] : mine;
    factor[u] = philox_uniform(mine) >= a.dropout ? a.keep : 0.0f;
  }
}

/// Numbers of a row that a warp holds at once, 4 neighbours a lane each time. They are all read before any of their
/// successors, which may be narrower, is written over them.
constexpr int kHeld = 4, kStride = 4 * kWarp;

/// Scores -> probabilities of `Number`, in place. A warp per row: once over it for maximum and sum, and again (it comes
/// from the L1 cache then) to write.
template <class Number, bool kDrops>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock) softmax_rows(RowArgs a, float* scores, int64_t rows) {
  const int64_t index = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarp;
  if (index >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, columns = static_cast<int>(a.block.columns_aligned);
  const Row row = find_row(a, index);
  float* s = scores + index * a.block.columns_aligned;

  float maximum = kLowest, sum = 0;
#pragma unroll 4
  for (int c = row.lo / 4 * 4 + 4 * lane; c < row.hi; c += kStride) {
    const float4 four = load4(s + c);
    const float x[4] = {four.x, four.y, four.z, four.w};
    float seen[4], largest = maximum;
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      seen[u] = sees(a.block, row, c + u) ? x[u] : -INFINITY;
      largest = fmaxf(largest, seen[u]);
    }
    sum *= expf(maximum - largest);
#pragma unroll
    for (int u = 0; u < 4; ++u) sum += expf(seen[u] - largest);
    maximum = largest;
  }
  const float row_maximum = warp_max(maximum);
  sum = warp_sum(sum * expf(maximum - row_maximum));
  if (lane == 0) a.lse[row.in_head] = row_maximum + logf(sum);
  const float inverse = 1.0f / sum;

  Number* p = reinterpret_cast<Number*>(s);
  for (int base = 0; base < columns; base += kHeld * kStride) {
    float4 held[kHeld];
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int c = base + r * kStride + 4 * lane;
      held[r] = c + 4 > row.lo && c < row.hi ? load4(s + c) : float4{0, 0, 0, 0};
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int c = base + r * kStride + 4 * lane;
      if (c >= columns) break;
      float x[4] = {held[r].x, held[r].y, held[r].z, held[r].w}, factor[4] = {1, 1, 1, 1};
      if (kDrops) dropout_factors(a, row, c, factor);
#pragma unroll
      for (int u = 0; u < 4; ++u)
        x[u] = sees(a.block, row, c + u) ? expf(x[u] - row_maximum) * inverse * factor[u] : 0.0f;
      store4(p + c, {x[0], x[1], x[2], x[3]});
    }
    __syncwarp();
  }
}

/// Scores -> probabilities (after dropout), dp -> gradient of q·k, both of `Number` and in place. A warp per row.
template <class Number, bool kDrops>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    gradient_rows(RowArgs a, float scale, const float* deltas, float* scores, float* gradients, int64_t rows) {
  const int64_t index = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarp;
  if (index >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, columns = static_cast<int>(a.block.columns_aligned);
  const Row row = find_row(a, index);
  const float lse = a.lse[row.in_head], delta = deltas[row.in_head];
  // A query that sees one key weighs it with 1 whatever the score is: its gradient is 0, where dy·v − delta would leave
  // the rounding errors of two sums.
  const float slope = a.begin[row.b * a.L + row.t] == a.T + row.t ? 0.0f : scale;
  float* s = scores + index * a.block.columns_aligned;
  float* dp = gradients + index * a.block.columns_aligned;
  for (int base = 0; base < columns; base += kHeld * kStride) {
    float4 held_s[kHeld], held_dp[kHeld];
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int c = base + r * kStride + 4 * lane;
      const bool any = c + 4 > row.lo && c < row.hi;
      held_s[r] = any ? load4(s + c) : float4{0, 0, 0, 0};
      held_dp[r] = any ? load4(dp + c) : float4{0, 0, 0, 0};
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int c = base + r * kStride + 4 * lane;
      if (c >= columns) break;
      float p[4] = {held_s[r].x, held_s[r].y, held_s[r].z, held_s[r].w}, factor[4] = {1, 1, 1, 1};
      float ds[4] = {held_dp[r].x, held_dp[r].y, held_dp[r].z, held_dp[r].w};
      if (kDrops) dropout_factors(a, row, c, factor);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const bool seen = sees(a.block, row, c + u);
        p[u] = expf(p[u] - lse);
        ds[u] = seen ? p[u] * slope * (factor[u] * ds[u] - delta) : 0.0f;
        p[u] = seen ? p[u] * factor[u] : 0.0f;
      }
      store4(reinterpret_cast<Number*>(s) + c, {p[0], p[1], p[2], p[3]});
      store4(reinterpret_cast<Number*>(dp) + c, {ds[0], ds[1], ds[2], ds[3]});
    }
    __syncwarp();
  }
}

/// delta [B,H,L] = Σ_e dy · y over rows of [B,L,H,V]. A warp per row.
template <class Dy, class Y, bool kFours>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    sum_products(const Dy* dy, const Y* y, float* delta, int64_t rows, int64_t L, int64_t H, int64_t V) {
  const int64_t index = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarp;
  if (index >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Dy* x = dy + index * V;
  const Y* z = y + index * V;
  float sum = 0;
  if constexpr (kFours) {
#pragma unroll 4
    for (int64_t e = 4 * lane; e < V; e += kStride) {
      const float4 p = load4(x + e), q = load4(z + e);
      sum += p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w;
    }
  } else {
    for (int64_t e = lane; e < V; e += kWarp) sum += to_float(x[e]) * to_float(z[e]);
  }
  sum = warp_sum(sum);
  const int64_t h = index % H, row = index / H;
  if (lane == 0) delta[(row / L * H + h) * L + row % L] = sum;
}

__global__ void round_numbers(const float* from, __nv_bfloat16* to, int64_t count) {
  const int64_t at = 4 * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (at + 4 <= count)  // both are allocations of their own, or rows of full tensors: aligned
    store4(to + at, load4(from + at));
  else
    for (int64_t i = at; i < count; ++i) to[i] = from_float<__nv_bfloat16>(from[i]);
}

// ---- host -----------------------------------------------------------------------------------------------------------

int64_t size_of(NumberType type) { return type == NumberType::kBfloat16 ? 2 : 4; }

const void* offset(const void* base, NumberType type, int64_t elements) {
  return static_cast<const uint8_t*>(base) + elements * size_of(type);
}

/// The whole sequence as stretches: chunks where they are known, else every row is one.
std::vector<Stretches> find_stretches(const ChunkAttentionArgs& a) {
  const int64_t B = a.B, L = a.L, T = a.T, C = a.window;
  if (a.phase < 0) {
    const int64_t prior = std::min(T, C - 1);
    return {{B, 0, L, L, prior, T - prior, T, C}};
  }
  std::vector<Stretches> list;
  int64_t done = 0;
  if (a.phase > 0) {
    done = std::min(L, C - a.phase);
    list.push_back({B, 0, L, done, a.phase, T - a.phase, T, C});
  }
  const int64_t full = (L - done) / C;
  if (full > 0 && full * C == L) {
    list.push_back({B * full, 0, C, C, 0, 0, 0, C});
  } else if (full >= B) {
    for (int64_t b = 0; b < B; ++b) list.push_back({full, b * L + done, C, C, 0, 0, 0, C});
  } else {
    for (int64_t c = 0; c < full; ++c) list.push_back({B, done + c * C, L, C, 0, 0, 0, C});
  }
  done += full * C;
  if (done < L) list.push_back({B, done, L, L - done, 0, 0, 0, C});
  return list;
}

/// How many queries (forward) or keys (backward) make a block, and of how many stretches at once. `other` is the
/// longest that the other side of a block of this size may be.
struct Split {
  int64_t size, stretches, elements;
};
template <class Other>
Split find_split(int64_t count, int64_t length, const Other& other) {
  constexpr int64_t kTileShort = 128, kTileLong = 256, kSmallest = 128;  // of the products
  const auto elements = [&](int64_t size) { return size * (round_up(other(size), kColumnsAligned) + kColumnsAligned); };
  int64_t size = std::min(kBlock, length);
  while (size < length && count * divide_up(size, kTileShort) * divide_up(other(size), kTileLong) < kMultiprocessors)
    size = std::min(2 * size, length);
  while (size > kSmallest && elements(size) * 4 > kScoreBytes) size = divide_up(size, 2);
  size = std::min(round_up(size, kColumnsAligned), length);
  const int64_t at_once = std::min(count, std::max<int64_t>(1, kScoreBytes / (4 * elements(size))));
  return {size, at_once, at_once * elements(size)};
}

Split forward_split(const Stretches& s) {
  return find_split(s.count, s.length,
                    [&](int64_t queries) { return std::min(s.prior + s.length, s.window - 1 + queries); });
}
Split backward_split(const Stretches& s) {
  // Columns are aligned, so rows of a narrow block may count for more than they hold.
  Split split = find_split(s.count, std::max(s.length, s.prior),
                           [&](int64_t keys) { return std::min(s.length, s.window - 1 + keys); });
  split.elements = split.stretches * (round_up(split.size, kColumnsAligned) + kColumnsAligned) *
                   std::min(s.length, s.window - 1 + split.size);
  return split;
}

/// One head of a call: its matrices, and the products between them and the scratch memory.
class Head {
 public:
  Head(const ChunkAttentionArgs& args, int64_t h, void* workspace, CudaQueue& queue)
      : a_(args), h_(h), workspace_(workspace), queue_(queue) {}

  /// Rows of [rows, H, width] from `first` on, those of the next stretch `step` later.
  CudaMatrix rows(const void* base, NumberType type, int64_t width, int64_t first, int64_t step) const {
    return {offset(base, type, (first * a_.H + h_) * width), type, a_.H * width, false, step * a_.H * width};
  }
  CudaMatrix queries(const void* base, NumberType type, int64_t width, const Block& x) const {
    return rows(base, type, width, x.s.first + x.first_query, x.s.step);
  }
  CudaMatrix prior_keys(const void* base, NumberType type, int64_t width, const Block& x) const {
    return rows(base, type, width, x.s.first_prior + x.first_prior_key, x.s.prior_step);
  }
  CudaMatrix own_keys(const void* base, NumberType type, int64_t width, const Block& x) const {
    return rows(base, type, width, x.s.first + x.first_own_key, x.s.step);
  }
  /// The block's scores, or what replaced them: rows as long in bytes, whatever the type.
  static CudaMatrix scores(const float* base, NumberType type, int64_t column, const Block& x) {
    const int64_t row = x.columns_aligned * 4 / size_of(type);
    return {offset(base, type, column), type, row, false, x.rows * row};
  }
  static CudaMatrix transposed(CudaMatrix m) {
    m.transposed = !m.transposed;
    return m;
  }

  void multiply(const Block& x, int64_t M, int64_t N, int64_t K, const CudaMatrix& left, const CudaMatrix& right,
                const CudaMatrix& out, float alpha = 1, bool accumulate = false) const {
    if (M == 0 || N == 0) return;
    CudaProduct p;
    p.batch = x.s.count, p.M = M, p.N = N, p.K = K;
    p.a = left, p.b = right, p.alpha = alpha;
    p.d = const_cast<void*>(out.data), p.d_type = out.type, p.d_stride = out.stride, p.d_batch_stride = out.batch_stride;
    if (accumulate) p.c = p.d, p.c_stride = p.d_stride, p.c_batch_stride = p.d_batch_stride, p.beta = 1;
    cuda_product(p, queue_, workspace_);
  }

  /// out = alpha · x of the queries times x of the keys.
  void score(const Block& x, const CudaMatrix& left, int64_t width, const void* prior, const void* own, float alpha,
             float* out) const {
    if (x.prior_columns > 0)
      multiply(x, x.rows, x.prior_columns, width, left, transposed(prior_keys(prior, a_.type, width, x)),
               scores(out, NumberType::kFloat32, 0, x), alpha);
    if (x.own_columns > 0)
      multiply(x, x.rows, x.own_columns, width, left, transposed(own_keys(own, a_.type, width, x)),
               scores(out, NumberType::kFloat32, x.seam, x), alpha);
  }

  RowArgs row_args(const Block& x) const {
    return {x,    a_.begin, a_.lse, a_.L, a_.T, a_.H, h_, static_cast<float>(a_.dropout),
            dropout_keep(a_), a_.dropout_key};
  }

 private:
  const ChunkAttentionArgs& a_;
  int64_t h_;
  void* workspace_;
  CudaQueue& queue_;
};

/// Of the kernels with a warp per row.
LaunchShape row_shape(int64_t rows) {
  return {static_cast<unsigned>(divide_up(rows, kWarpsPerBlock)), kWarp * kWarpsPerBlock};
}

void forward_block(const ChunkAttentionArgs& a, const Head& head, const Block& x, float* scores, CudaQueue& queue) {
  head.score(x, head.queries(a.q, a.type, a.K, x), a.K, a.prior_k, a.k, a.scale, scores);
  const int64_t rows = x.s.count * x.rows;
  with_type(a.type, [&](auto number) {
    const auto kernel = a.dropout > 0 ? softmax_rows<decltype(number), true> : softmax_rows<decltype(number), false>;
    launch(kOp, queue, row_shape(rows), kernel, head.row_args(x), scores, rows);
  });
  const CudaMatrix y = head.queries(a.y, a.y_type, a.V, x);
  if (x.prior_columns > 0)
    head.multiply(x, x.rows, a.V, x.prior_columns, Head::scores(scores, a.type, 0, x),
                  head.prior_keys(a.prior_v, a.type, a.V, x), y);
  head.multiply(x, x.rows, a.V, x.own_columns, Head::scores(scores, a.type, x.seam, x),
                head.own_keys(a.v, a.type, a.V, x), y, 1, x.prior_columns > 0);
}

void forward_stretches(const ChunkAttentionArgs& a, const Stretches& s, const Head& head, float* scores,
                       CudaQueue& queue) {
  const Split split = forward_split(s);
  for (int64_t n = 0; n < s.count; n += split.stretches) {
    const Stretches part = s.part(n, std::min(split.stretches, s.count - n));
    for (int64_t i = 0; i < s.length; i += split.size) {
      const int64_t end = std::min(i + split.size, s.length);
      const int64_t first_key = std::max<int64_t>(0, s.prior + i - s.window + 1);
      forward_block(a, head, Block(part, i, end, first_key, s.prior + end), scores, queue);
    }
  }
}

/// What the backward pass holds besides its arguments.
struct BackwardScratch {
  float *scores, *gradients, *dq;
};

void backward_block(const ChunkAttentionGradArgs& g, const Head& head, const Block& x, const BackwardScratch& scratch,
                    CudaQueue& queue) {
  const ChunkAttentionArgs& a = g.forward;
  const bool prior = x.prior_columns > 0;
  const int64_t keys = prior ? x.prior_columns : x.own_columns, rows = x.s.count * x.rows;
  const CudaMatrix q = head.queries(a.q, a.type, a.K, x), dy = head.queries(g.dy_factor, a.type, a.V, x);
  head.score(x, q, a.K, a.prior_k, a.k, a.scale, scratch.scores);
  head.score(x, dy, a.V, a.prior_v, a.v, 1, scratch.gradients);
  with_type(a.type, [&](auto number) {
    const auto kernel = a.dropout > 0 ? gradient_rows<decltype(number), true> : gradient_rows<decltype(number), false>;
    launch(kOp, queue, row_shape(rows), kernel, head.row_args(x), a.scale, g.delta, scratch.scores, scratch.gradients,
           rows);
  });
  const auto side = [&](const void* of_prior, const void* own, NumberType type, int64_t width) {
    return prior ? head.prior_keys(of_prior, type, width, x) : head.own_keys(own, type, width, x);
  };
  const CudaMatrix p = Head::scores(scratch.scores, a.type, 0, x), ds = Head::scores(scratch.gradients, a.type, 0, x);
  head.multiply(x, keys, a.V, x.rows, Head::transposed(p), dy, side(g.dprior_v, g.dv, g.grad_type, a.V));
  head.multiply(x, keys, a.K, x.rows, Head::transposed(ds), q, side(g.dprior_k, g.dk, g.grad_type, a.K));
  head.multiply(x, x.rows, a.K, keys, ds, side(a.prior_k, a.k, a.type, a.K),
                head.queries(scratch.dq, NumberType::kFloat32, a.K, x), 1, /*accumulate=*/true);
}

void backward_stretches(const ChunkAttentionGradArgs& g, const Stretches& s, const Head& head,
                        const BackwardScratch& scratch, CudaQueue& queue) {
  const Split split = backward_split(s);
  for (int64_t n = 0; n < s.count; n += split.stretches) {
    const Stretches part = s.part(n, std::min(split.stretches, s.count - n));
    for (int64_t key = 0, end = 0; key < s.prior + s.length; key = end) {
      end = std::min(key + split.size, key < s.prior ? s.prior : s.prior + s.length);  // never across the seam
      const int64_t first_query = std::max<int64_t>(0, key - s.prior);
      const int64_t last_query = std::min(s.length, end - 1 + s.window - s.prior);  // one behind it
      if (first_query < last_query)
        backward_block(g, head, Block(part, first_query, last_query, key, end), scratch, queue);
    }
  }
}

template <class Dy, class Y>
void run_delta(const ChunkAttentionGradArgs& g, CudaQueue& queue) {
  const ChunkAttentionArgs& a = g.forward;
  const auto* dy = static_cast<const Dy*>(g.dy_factor);
  const auto* y = static_cast<const Y*>(a.y);
  const int64_t rows = a.B * a.L * a.H;
  const auto kernel = in_fours(dy, a.V) && in_fours(y, a.V) ? sum_products<Dy, Y, true> : sum_products<Dy, Y, false>;
  launch(kOp, queue, row_shape(rows), kernel, dy, y, g.delta, rows, a.L, a.H, a.V);
}

void set_zero(void* data, NumberType type, int64_t count, CudaQueue& queue) {
  check(cudaMemsetAsync(data, 0, static_cast<size_t>(count * size_of(type)), queue.stream()), kOp);
}

void check_args(const ChunkAttentionArgs& a) {
  if (a.window < 1 || a.phase > a.T || a.phase >= a.window)
    throw std::runtime_error("[chunk_attention] window must be >= 1 and above the phase, the phase at most T = " +
                             std::to_string(a.T) + ", got " + std::to_string(a.window) + " and " +
                             std::to_string(a.phase));
}

}  // namespace

void chunk_attention_forward_cuda(const ChunkAttentionArgs& args, CudaQueue& queue) {
  check_args(args);
  if (chunk_attention_few_forward_cuda(args, queue)) return;
  const std::vector<Stretches> stretches = find_stretches(args);
  int64_t elements = 0;
  for (const Stretches& s : stretches) elements = std::max(elements, forward_split(s).elements);
  auto* scores = queue.scratch_of<float>(elements);
  void* workspace = queue.scratch(kCudaProductWorkspace);
  for (int64_t h = 0; h < args.H; ++h)
    for (const Stretches& s : stretches) forward_stretches(args, s, Head(args, h, workspace, queue), scores, queue);
}

void chunk_attention_backward_cuda(const ChunkAttentionGradArgs& args, CudaQueue& queue) {
  const ChunkAttentionArgs& a = args.forward;
  check_args(a);
  with_type(a.type, [&](auto dy) {
    with_type(a.y_type, [&](auto y) { run_delta<decltype(dy), decltype(y)>(args, queue); });
  });
  const std::vector<Stretches> stretches = find_stretches(a);
  int64_t elements = 0;
  for (const Stretches& s : stretches) elements = std::max(elements, backward_split(s).elements);
  const int64_t dq_size = a.B * a.L * a.H * a.K;
  const bool rounds = args.grad_type == NumberType::kBfloat16;
  const BackwardScratch scratch{queue.scratch_of<float>(elements), queue.scratch_of<float>(elements),
                                rounds ? queue.scratch_of<float>(dq_size) : static_cast<float*>(args.dq)};
  void* workspace = queue.scratch(kCudaProductWorkspace);
  set_zero(scratch.dq, NumberType::kFloat32, dq_size, queue);
  if (a.T > 0) {  // nobody may see them
    set_zero(args.dprior_k, args.grad_type, a.B * a.T * a.H * a.K, queue);
    set_zero(args.dprior_v, args.grad_type, a.B * a.T * a.H * a.V, queue);
  }
  for (int64_t h = 0; h < a.H; ++h)
    for (const Stretches& s : stretches) backward_stretches(args, s, Head(a, h, workspace, queue), scratch, queue);
  if (!rounds) return;
  constexpr int kThreads = 256;
  launch(kOp, queue, {static_cast<unsigned>(divide_up(dq_size, 4 * kThreads)), kThreads}, round_numbers, scratch.dq,
         static_cast<__nv_bfloat16*>(args.dq), dq_size);
}

}  // namespace megalodon::ops
