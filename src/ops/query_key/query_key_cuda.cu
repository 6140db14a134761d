// query_key on NVIDIA GPUs, bound by memory in both directions (bytes in query_key_kernel.h).
//
// A group of 1 to 32 neighbouring lanes holds one head of one token in registers: kSteps times four numbers a lane (two
// where memory is not aligned), 256 features at most. A wider head is cut into tiles of 256, one block each: every block
// goes through the whole head for its sums, its own tile last, so that what it needs then lies in registers.
//
// Forward: a group takes all heads of its token where there are tokens enough to fill the GPU, and computes sines once
// for them. z is read once, q and k are written once; the affine maps' 16 bytes a feature come from the caches.
//
// Backward: a group takes one head of several tokens, because dscale and dshift are sums over tokens, which it keeps in
// registers: float32 sums of at most kMostTokens numbers, added up over the block in float64. A second kernel adds the
// blocks' sums up. (Sines again for every head: some 150 of the 500 instructions for 8 features, which take less time
// than their 64 to 128 bytes.)
#include <algorithm>

#include "ops/query_key/query_key_kernel.h"
#include "ops/rotary/rotate.cuh"
#include "ops/row_norm/column_sums.cuh"

namespace megalodon::ops {
namespace {

using cuda::Numbers;
using cuda::Turn;

constexpr int kThreads = 256;
constexpr int kSteps = 2;           // 6 loads of 16 bytes a thread are under way in the backward pass, 2 in the forward
constexpr int kMostTokens = 32;     // per group in the backward pass: an error of at most 32 · 2^-24
constexpr int kFewestTokens = 2;    // below that the blocks' sums would be as large as z
constexpr int64_t kGroups = 4 * 132 * (kThreads / cuda::kWarp);  // whole warps that keep an H100 busy

/// How a shape is cut.
struct Split {
  int lanes_log2;  // of a group
  int tiles;       // of a head
  int runs;        // forward: groups that share the heads of a token
  int run;         // forward: heads per group; backward: tokens per group

  __device__ int lanes() const { return 1 << lanes_log2; }
  __device__ int groups() const { return kThreads >> lanes_log2; }
};

/// The sum over a group, in all of its lanes.
__device__ __forceinline__ float group_sum(float x, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(cuda::kAllLanes, x, distance);
  return x;
}

__device__ __forceinline__ float inverse_root(float squares, const QueryKeyArgs& a) {
  return 1.0f / sqrtf(squares / static_cast<float>(a.head_dim) + static_cast<float>(a.eps));
}

/// Which features a lane holds: kWide of them from at(tile, step) on.
template <int kWide>
struct Columns {
  int lane, lanes, size;

  __device__ int64_t at(int tile, int step) const {
    return (static_cast<int64_t>(tile * kSteps + step) * lanes + lane) * kWide;
  }
  __device__ bool has(int tile, int step) const { return at(tile, step) < size; }
};

template <int kWide>
__device__ __forceinline__ Columns<kWide> columns_of_thread(const QueryKeyArgs& a, Split s) {
  return {static_cast<int>(threadIdx.x) & (s.lanes() - 1), s.lanes(), static_cast<int>(a.head_dim)};
}

template <class Z, class Y, int kWide>
__global__ void __launch_bounds__(kThreads) forward_kernel(QueryKeyArgs a, QueryKeyResults out, Split s) {
  const Columns<kWide> columns = columns_of_thread<kWide>(a, s);
  const int own = static_cast<int>(blockIdx.x) % s.tiles;
  const int first_head = static_cast<int>(blockIdx.x) / s.tiles % s.runs * s.run;
  const int heads = static_cast<int>(a.heads), end_head = min(heads, first_head + s.run);
  const int64_t block = static_cast<int64_t>(blockIdx.x) / s.tiles / s.runs;
  const int64_t asked = block * s.groups() + (static_cast<int>(threadIdx.x) >> s.lanes_log2);
  const bool mine = asked < a.tokens;  // idle groups go along: lanes of other groups shuffle with theirs
  const int64_t token = mine ? asked : a.tokens - 1, position = a.position[token];

  Turn<kWide> turn[kSteps];
  for (int h = first_head; h < end_head; ++h) {
    const int64_t row = (token * heads + h) * a.head_dim;
    Numbers<kWide> z[kSteps];
    float squares = 0;
    for (int n = 1; n <= s.tiles; ++n) {
      const int tile = (own + n) % s.tiles;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        z[step] = {};
        if (columns.has(tile, step))
          z[step] = cuda::load_numbers<kWide>(static_cast<const Z*>(a.z) + row + columns.at(tile, step));
      }
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int j = 0; j < kWide; ++j) squares += z[step].at[j] * z[step].at[j];
    }
    const float rstd = inverse_root(group_sum(squares, s.lanes()), a);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (!columns.has(own, step)) continue;
      const int64_t at = columns.at(own, step);
      if (h == first_head) turn[step] = cuda::turn_of<kWide>(position, a.frequencies + at / 2);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t parameter = (static_cast<int64_t>(i) * heads + h) * a.head_dim + at;
        const Numbers<kWide> scale = cuda::load_numbers<kWide>(a.scale + parameter);
        const Numbers<kWide> shift = cuda::load_numbers<kWide>(a.shift + parameter);
        Numbers<kWide> y;
#pragma unroll
        for (int j = 0; j < kWide; ++j) y.at[j] = fmaf(z[step].at[j] * rstd, scale.at[j], shift.at[j]);
        Y* to = static_cast<Y*>(i == 0 ? out.q : out.k) + row + at;
        if (mine) cuda::store_numbers<kWide>(to, cuda::rotate(y, turn[step], 1.0f));
      }
    }
  }
}

/// What a thread of the backward pass holds of one token.
template <int kWide>
struct Token {
  Numbers<kWide> z[kSteps], gradient[2][kSteps], du[kSteps];  // gradient: of q and k, rotated back
  float squares = 0, dot = 0;                                 // Σ z², Σ du z
};

template <class Z, class Y, int kWide>
__device__ __forceinline__ void load_tile(const QueryKeyArgs& a, const QueryKeyGradients& out,
                                          const Columns<kWide>& columns, int64_t row, int tile, bool mine,
                                          Token<kWide>& t) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    t.z[step] = t.gradient[0][step] = t.gradient[1][step] = {};
    if (!mine || !columns.has(tile, step)) continue;
    const int64_t from = row + columns.at(tile, step);
    t.z[step] = cuda::load_numbers<kWide>(static_cast<const Z*>(a.z) + from);
    t.gradient[0][step] = cuda::load_numbers<kWide>(static_cast<const Y*>(out.dq) + from);
    t.gradient[1][step] = cuda::load_numbers<kWide>(static_cast<const Y*>(out.dk) + from);
  }
}

/// Rotates the tile's gradients back and adds to the token's sums.
template <int kWide>
__device__ __forceinline__ void take_tile(const QueryKeyArgs& a, const Columns<kWide>& columns, int head, int tile,
                                          int64_t position, Token<kWide>& t) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    t.du[step] = {};
    if (!columns.has(tile, step)) continue;
    const int64_t at = columns.at(tile, step);
    const Turn<kWide> turn = cuda::turn_of<kWide>(position, a.frequencies + at / 2);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      t.gradient[i][step] = cuda::rotate(t.gradient[i][step], turn, -1.0f);
      const Numbers<kWide> scale =
          cuda::load_numbers<kWide>(a.scale + (static_cast<int64_t>(i) * a.heads + head) * a.head_dim + at);
#pragma unroll
      for (int j = 0; j < kWide; ++j)
        t.du[step].at[j] = fmaf(t.gradient[i][step].at[j], scale.at[j], t.du[step].at[j]);
    }
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      t.squares = fmaf(t.z[step].at[j], t.z[step].at[j], t.squares);
      t.dot = fmaf(t.du[step].at[j], t.z[step].at[j], t.dot);
    }
  }
}

/// Sums over a thread's tokens, in the order of the results: dscale of q and k, then dshift.
template <int kWide>
struct ColumnSums {
  Numbers<kWide> of[4][kSteps] = {};
};

/// Adds the block's groups up, in float64 and in order, and writes the sums where they belong in this block's row of
/// partial sums [4, heads, head_dim].
template <int kWide>
__device__ void write_sums(const ColumnSums<kWide>& sums, const QueryKeyArgs& a, Split s, int head, int tile,
                           float* partial) {
  __shared__ float all[4 * kSteps * kWide][kThreads];
#pragma unroll
  for (int kind = 0; kind < 4; ++kind)
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int j = 0; j < kWide; ++j) all[(kind * kSteps + step) * kWide + j][threadIdx.x] = sums.of[kind][step].at[j];
  __syncthreads();
  for (int column = static_cast<int>(threadIdx.x); column < 4 * kSteps * kWide * s.lanes(); column += kThreads) {
    const int value = column >> s.lanes_log2, lane = column & (s.lanes() - 1);
    const int kind = value / (kSteps * kWide), step = value / kWide % kSteps, j = value % kWide;
    double total = 0;
    for (int group = 0; group < s.groups(); ++group) total += all[value][group * s.lanes() + lane];
    const Columns<kWide> columns{lane, s.lanes(), static_cast<int>(a.head_dim)};
    if (columns.has(tile, step))
      partial[(kind * a.heads + head) * a.head_dim + columns.at(tile, step) + j] = static_cast<float>(total);
  }
}

template <class Z, class Y, int kWide>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(QueryKeyArgs a, QueryKeyGradients out, Split s, float* partials) {
  const Columns<kWide> columns = columns_of_thread<kWide>(a, s);
  const int own = static_cast<int>(blockIdx.x) % s.tiles;
  const int64_t head_and_block = static_cast<int64_t>(blockIdx.x) / s.tiles, block = head_and_block / a.heads;
  const int head = static_cast<int>(head_and_block % a.heads);

  ColumnSums<kWide> sums;
  for (int n = 0; n < s.run; ++n) {  // groups side by side take tokens side by side
    const int64_t asked = (block * s.run + n) * s.groups() + (static_cast<int>(threadIdx.x) >> s.lanes_log2);
    const bool mine = asked < a.tokens;
    const int64_t token = mine ? asked : a.tokens - 1, row = (token * a.heads + head) * a.head_dim;
    const int64_t position = a.position[token];
    Token<kWide> t;
    for (int i = 1; i <= s.tiles; ++i) {
      const int tile = (own + i) % s.tiles;
      load_tile<Z, Y>(a, out, columns, row, tile, mine, t);
      take_tile(a, columns, head, tile, position, t);
    }
    const float rstd = inverse_root(group_sum(t.squares, s.lanes()), a);
    const float slope = -rstd * rstd * rstd * group_sum(t.dot, s.lanes()) / static_cast<float>(a.head_dim);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      Numbers<kWide> dz;
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        const float z = t.z[step].at[j], u = z * rstd;
        dz.at[j] = fmaf(t.du[step].at[j], rstd, slope * z);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& dscale = sums.of[i][step].at[j];
          dscale = fmaf(t.gradient[i][step].at[j], u, dscale);
          sums.of[2 + i][step].at[j] += t.gradient[i][step].at[j];
        }
      }
      if (mine && columns.has(own, step))
        cuda::store_numbers<kWide>(static_cast<Z*>(out.dz) + row + columns.at(own, step), dz);
    }
  }
  write_sums(sums, a, s, head, own, partials + block * 4 * a.heads * a.head_dim);
}

// ---- launch ---------------------------------------------------------------------------------------------------------

template <int kWide>
Split split_of(const QueryKeyArgs& args) {
  Split split{};
  while (split.lanes_log2 < 5 && (kSteps * kWide << split.lanes_log2) < args.head_dim) ++split.lanes_log2;
  split.tiles = static_cast<int>(cuda::divide_up(args.head_dim, kSteps * kWide << split.lanes_log2));
  return split;
}

int64_t groups_of_block(const Split& split) { return kThreads >> split.lanes_log2; }

/// Groups of whole warps' worth of lanes that the GPU wants.
int64_t groups_wanted(const Split& split) { return kGroups << (5 - split.lanes_log2); }

template <class Z, class Y, int kWide>
void launch_forward(const QueryKeyArgs& args, const QueryKeyResults& results, CudaQueue& queue) {
  Split split = split_of<kWide>(args);
  const int64_t runs = std::clamp<int64_t>(cuda::divide_up(groups_wanted(split), args.tokens), 1, args.heads);
  split.run = static_cast<int>(cuda::divide_up(args.heads, runs));
  split.runs = static_cast<int>(cuda::divide_up(args.heads, split.run));
  const int64_t grid = cuda::divide_up(args.tokens, groups_of_block(split)) * split.runs * split.tiles;
  cuda::launch("query_key", queue, {static_cast<unsigned>(grid), kThreads}, forward_kernel<Z, Y, kWide>, args, results,
               split);
}

template <class Z, class Y, int kWide>
void launch_backward(const QueryKeyArgs& args, const QueryKeyGradients& gradients, CudaQueue& queue) {
  Split split = split_of<kWide>(args);
  split.run = static_cast<int>(std::clamp<int64_t>(
      cuda::divide_up(args.tokens * args.heads, groups_wanted(split)), kFewestTokens, kMostTokens));
  const int64_t blocks = cuda::divide_up(args.tokens, groups_of_block(split) * split.run);
  const int64_t size = 2 * args.heads * args.head_dim;
  auto* partials = queue.scratch_of<float>(blocks * 2 * size);
  cuda::launch("query_key", queue, {static_cast<unsigned>(blocks * args.heads * split.tiles), kThreads},
               backward_kernel<Z, Y, kWide>, args, gradients, split, partials);
  cuda::sum_partials("query_key", partials, blocks, size, gradients.dscale, gradients.dshift, queue);
}

/// Calls run(Z, Y) with numbers of the arguments' types.
template <class Run>
void with_types(const QueryKeyArgs& args, const Run& run) {
  cuda::with_type(args.z_type, [&](auto z) { cuda::with_type(args.y_type, [&](auto y) { run(z, y); }); });
}

template <class T>
bool in_fours(const QueryKeyArgs& args, const void* numbers) {
  return cuda::in_fours(static_cast<const T*>(numbers), args.head_dim);
}

template <class Z>
bool inputs_in_fours(const QueryKeyArgs& args) {
  return in_fours<Z>(args, args.z) && in_fours<float>(args, args.scale) && in_fours<float>(args, args.shift);
}

}  // namespace

void query_key_forward_cuda(const QueryKeyArgs& args, const QueryKeyResults& results, CudaQueue& queue) {
  if (args.tokens * args.heads * args.head_dim == 0) return;
  with_types(args, [&](auto z, auto y) {
    using Z = decltype(z);
    using Y = decltype(y);
    const bool fours = inputs_in_fours<Z>(args) && in_fours<Y>(args, results.q) && in_fours<Y>(args, results.k);
    (fours ? launch_forward<Z, Y, 4> : launch_forward<Z, Y, 2>)(args, results, queue);
  });
}

void query_key_backward_cuda(const QueryKeyArgs& args, const QueryKeyGradients& gradients, CudaQueue& queue) {
  if (args.tokens * args.heads * args.head_dim == 0) return;
  with_types(args, [&](auto z, auto y) {
    using Z = decltype(z);
    using Y = decltype(y);
    const bool fours = inputs_in_fours<Z>(args) && in_fours<Z>(args, gradients.dz) &&
                       in_fours<Y>(args, gradients.dq) && in_fours<Y>(args, gradients.dk);
    (fours ? launch_backward<Z, Y, 4> : launch_backward<Z, Y, 2>)(args, gradients, queue);
  });
}

}  // namespace megalodon::ops
