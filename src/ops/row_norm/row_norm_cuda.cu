// CUDA kernels of rms_norm and layer_norm. A row is read once and stays in registers: of a team of 1 to 32 lanes with
// rows of up to 512 features, of a whole block up to 4096; longer or odd rows are read again, from the caches. Traffic:
// 6 bytes an element forward and 10 backward with x in float32 and y in bfloat16.
//
// Backward recomputes the statistics from the row it needs anyway, as the CPU does; row_norm_kernel.h has the formulas.
// Its blocks walk over many rows, and a thread meets the same features in each: it adds up their gradients for weight
// and bias in registers (float32, at most 512 rows). A block writes what its threads have, and a second kernel adds the
// blocks up in order: the same bits every time.
#include <algorithm>

#include "ops/row_norm/column_sums.cuh"
#include "ops/row_norm/row_norm_kernel.h"
#include "ops/row_norm/run_math.cuh"

namespace megalodon::ops {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kMostRows = 512;       // for a team in the backward
constexpr int kFewBlocks = 4 * 132;  // in the backward: enough to fill an H100

/// How a kernel holds rows: kPacks packs of kWide features in each thread of a team, or none if kPacks is 0.
template <class X_, class Y_, int kWide_, int kPacks_, bool kBlock_>
struct Plan {
  using X = X_;
  using Y = Y_;
  static constexpr int kWide = kWide_, kPacks = kPacks_, kHeld = kPacks_ > 0 ? kPacks_ : 1;
  static constexpr bool kBlock = kBlock_;  // a team is the whole block, otherwise a part of a warp
};

/// A thread's place: lane `lane` of the team `index` of its block.
struct Team {
  int size, lane, index;
  __device__ explicit Team(int team_threads)
      : size(team_threads),
        lane(static_cast<int>(threadIdx.x) % team_threads),
        index(static_cast<int>(threadIdx.x) / team_threads) {}
};

/// Calls body(i, k) for the thread's packs of a row: the i-th it holds, at feature k.
template <class P, class Body>
__device__ __forceinline__ void for_each_pack(const Team& team, int64_t size, const Body& body) {
  if constexpr (P::kPacks > 0) {
#pragma unroll
    for (int i = 0; i < P::kPacks; ++i) {
      const int k = (i * team.size + team.lane) * P::kWide;
      if (k < size) body(i, static_cast<int64_t>(k));
    }
  } else {
    for (int64_t k = team.lane * P::kWide; k < size; k += team.size * P::kWide) body(0, k);
  }
}

/// A thread's part of a row, in registers or, if too long for them, in memory.
template <class P, class T>
struct Row {
  const T* from;
  Pack<P::kWide> held[P::kHeld];

  __device__ Row(const T* row, const Team& team, int64_t size) : from(row) {
    if constexpr (P::kPacks > 0)
      for_each_pack<P>(team, size, [&](int i, int64_t k) { held[i] = load_pack<P::kWide>(from + k); });
  }
  __device__ Pack<P::kWide> operator()(int i, int64_t k) const {
    if constexpr (P::kPacks > 0)
      return held[i];
    else
      return load_pack<P::kWide>(from + k);
  }
};

/// Sums over the team, in all its threads; `shared` holds count · kWarps numbers.
template <class P, int count, class Number>
__device__ __forceinline__ void add_up(Number (&x)[count], const Team& team, Number* shared) {
#pragma unroll
  for (int i = 0; i < count; ++i) x[i] = team_sum(x[i], P::kBlock ? kWarp : team.size);
  if constexpr (P::kBlock) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
    for (int i = 0; i < count; ++i)
      if (lane == 0) shared[i * kWarps + warp] = x[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < count; ++i) {
      x[i] = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) x[i] += shared[i * kWarps + w];
    }
    __syncthreads();
  }
}

/// Of layer_norm; rms_norm is about 0. In float64: a float32 sum would be wrong by |mean| · 2^-24.
template <class P>
__device__ __forceinline__ Center row_center(const RowNormArgs& a, const Row<P, typename P::X>& x, const Team& team) {
  if (!a.centered) return {0, 0, 0, 0};
  __shared__ double shared[kWarps];
  double sum[1] = {0};
  for_each_pack<P>(team, a.size, [&](int i, int64_t k) {
    const Pack<P::kWide> pack = x(i, k);
#pragma unroll
    for (int j = 0; j < P::kWide; ++j) sum[0] += pack.value[j];
  });
  add_up<P>(sum, team, shared);
  return center(sum[0] / static_cast<double>(a.size), 0);
}

__device__ __forceinline__ float reciprocal_deviation(const RowNormArgs& a, float squares) {
  return 1.0f / sqrtf(squares / static_cast<float>(a.size) + static_cast<float>(a.eps));
}

template <class P>
__global__ void __launch_bounds__(kThreads) row_norm_forward(RowNormArgs a, typename P::Y* y, int team_threads) {
  __shared__ float shared[kWarps];
  const Team team(team_threads);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / team_threads) + team.index;
  const int64_t size = row < a.rows ? a.size : 0;  // all threads of a warp must meet in the sums
  const Row<P, typename P::X> x(static_cast<const typename P::X*>(a.x) + row * a.size, team, size);
  RowNormArgs of_row = a;
  of_row.size = size;
  Center c = row_center<P>(of_row, x, team);
  float squares[1] = {0};
  for_each_pack<P>(team, size, [&](int i, int64_t k) {
    const Pack<P::kWide> pack = x(i, k);
#pragma unroll
    for (int j = 0; j < P::kWide; ++j) squares[0] = fmaf(c(pack.value[j]), c(pack.value[j]), squares[0]);
  });
  add_up<P>(squares, team, shared);
  c.rstd = reciprocal_deviation(a, squares[0]);
  for_each_pack<P>(team, size, [&](int i, int64_t k) {
    const Pack<P::kWide> pack = x(i, k), scale = load_scale<P::kWide>(a.weight, k);
    Pack<P::kWide> result{};
    if (a.bias != nullptr) result = load_pack<P::kWide>(a.bias + k);
#pragma unroll
    for (int j = 0; j < P::kWide; ++j)
      result.value[j] = fmaf(c(pack.value[j]) * c.rstd, scale.value[j], result.value[j]);
    store_pack<P::kWide>(y + row * a.size + k, result);
  });
}

/// Sums over rows for weight and bias: of a thread's own features, in registers or, with long rows, in the block's part
/// of the partial sums.
template <class P>
struct AffineSums {
  Pack<P::kWide> dscale[P::kHeld], dshift[P::kHeld];
  float* partial;  // [2, size] of this block; null: not wanted
  bool first_row = true;

  __device__ void add(int i, int64_t k, int64_t size, const Pack<P::kWide>& scale, const Pack<P::kWide>& shift) {
    if constexpr (P::kPacks > 0) {
#pragma unroll
      for (int j = 0; j < P::kWide; ++j) dscale[i].value[j] += scale.value[j], dshift[i].value[j] += shift.value[j];
    } else if (partial != nullptr) {
      Pack<P::kWide> scales = scale, shifts = shift;
      if (!first_row) {
#pragma unroll
        for (int j = 0; j < P::kWide; ++j) scales.value[j] += partial[k + j], shifts.value[j] += partial[size + k + j];
      }
#pragma unroll
      for (int j = 0; j < P::kWide; ++j) partial[k + j] = scales.value[j], partial[size + k + j] = shifts.value[j];
    }
  }

  /// Writes to `partial` what the teams of the block have.
  __device__ void store(const Team& team, int64_t size) {
    if constexpr (P::kBlock && P::kPacks > 0) {
      for_each_pack<P>(team, size, [&](int i, int64_t k) {
#pragma unroll
        for (int j = 0; j < P::kWide; ++j)
          partial[k + j] = dscale[i].value[j], partial[size + k + j] = dshift[i].value[j];
      });
    } else if constexpr (!P::kBlock) {
      store_of_teams(dscale, partial, team, size);
      store_of_teams(dshift, partial + size, team, size);
    }
  }

 private:
  __device__ static void store_of_teams(const Pack<P::kWide> (&mine)[P::kHeld], float* target, const Team& team,
                                        int64_t size) {
    __shared__ float of_teams[kThreads * P::kWide * P::kHeld];  // [teams, size]
    const auto width = static_cast<int>(size);
    for_each_pack<P>(team, size, [&](int i, int64_t k) {
#pragma unroll
      for (int j = 0; j < P::kWide; ++j) of_teams[team.index * width + k + j] = mine[i].value[j];
    });
    __syncthreads();
    for (int k = static_cast<int>(threadIdx.x); k < width; k += kThreads) {
      float sum = 0;
      for (int t = 0; t < kThreads / team.size; ++t) sum += of_teams[t * width + k];
      target[k] = sum;
    }
    __syncthreads();
  }
};

template <class P>
__device__ void differentiate_row(const RowNormArgs& a, const RowNormGradients& out, int64_t row, const Team& team,
                                  AffineSums<P>& sums) {
  constexpr int kWide = P::kWide;
  __shared__ float shared[3 * kWarps];
  RowNormArgs of_row = a;
  if (row >= a.rows) of_row.size = 0;  // all threads of a warp must meet in the sums
  const Row<P, typename P::X> x(static_cast<const typename P::X*>(a.x) + row * a.size, team, of_row.size);
  const Row<P, typename P::Y> dy(static_cast<const typename P::Y*>(out.dy) + row * a.size, team, of_row.size);
  Center c = row_center<P>(of_row, x, team);
  float totals[3] = {0, 0, 0};  // Σ c², Σ g, Σ g c
  for_each_pack<P>(team, of_row.size, [&](int i, int64_t k) {
    const Pack<kWide> x_pack = x(i, k), dy_pack = dy(i, k), scale = load_scale<kWide>(a.weight, k);
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      const float deviation = c(x_pack.value[j]), g = dy_pack.value[j] * scale.value[j];
      totals[0] = fmaf(deviation, deviation, totals[0]);
      totals[1] += g;
      totals[2] = fmaf(g, deviation, totals[2]);
    }
  });
  add_up<P>(totals, team, shared);
  const float rstd = reciprocal_deviation(a, totals[0]), part = 1.0f / static_cast<float>(a.size);
  const float constant = a.centered ? -rstd * totals[1] * part : 0, slope = -rstd * rstd * rstd * totals[2] * part;
  for_each_pack<P>(team, of_row.size, [&](int i, int64_t k) {
    const Pack<kWide> x_pack = x(i, k), dy_pack = dy(i, k), scale = load_scale<kWide>(a.weight, k);
    Pack<kWide> dx, dscale;
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      const float deviation = c(x_pack.value[j]);
      dx.value[j] = fmaf(dy_pack.value[j] * scale.value[j], rstd, fmaf(slope, deviation, constant));
      dscale.value[j] = dy_pack.value[j] * (deviation * rstd);
    }
    store_pack<kWide>(static_cast<typename P::X*>(out.dx) + row * a.size + k, dx);
    sums.add(i, k, a.size, dscale, dy_pack);
  });
}

template <class P>
__global__ void __launch_bounds__(kThreads)
    row_norm_backward(RowNormArgs a, RowNormGradients out, int team_threads, float* partials) {
  const Team team(team_threads);
  const int64_t rows = kThreads / team_threads;  // of the block at a time
  AffineSums<P> sums{};
  sums.partial = partials != nullptr ? partials + blockIdx.x * 2 * a.size : nullptr;
  for (int64_t base = blockIdx.x * rows; base < a.rows; base += gridDim.x * rows) {
    differentiate_row<P>(a, out, base + team.index, team, sums);
    sums.first_row = false;
  }
  if (partials != nullptr) sums.store(team, a.size);
}

// ---------------------------------------------------------------------------------------------------------------------

/// Calls use(plan, team size) with the plan for rows of this size.
template <class X, class Y, class Use>
void with_plan(int64_t size, bool fours, const Use& use) {
  const auto team = [](int64_t packs) {
    int threads = 1;
    while (threads < kWarp && threads < packs) threads *= 2;
    return threads;
  };
  const int64_t packs = size / 4;
  if (!fours && size <= 4 * kWarp)
    use(Plan<X, Y, 1, 4, false>{}, team(size));
  else if (!fours)
    use(Plan<X, Y, 1, 0, true>{}, kThreads);
  else if (packs <= kWarp)
    use(Plan<X, Y, 4, 1, false>{}, team(packs));
  else if (packs <= 4 * kWarp)
    use(Plan<X, Y, 4, 4, false>{}, kWarp);
  else if (packs <= 2 * kThreads)
    use(Plan<X, Y, 4, 2, true>{}, kThreads);
  else if (packs <= 4 * kThreads)
    use(Plan<X, Y, 4, 4, true>{}, kThreads);
  else
    use(Plan<X, Y, 4, 0, true>{}, kThreads);
}

template <class Use>
void with_types(const RowNormArgs& a, const Use& use) {
  with_type(a.x_type, [&](auto x) { with_type(a.y_type, [&](auto y) { use(x, y); }); });
}

}  // namespace
}  // namespace cuda

void row_norm_forward_cuda(const RowNormArgs& a, const RowNormResult& result, CudaQueue& queue) {
  if (a.rows * a.size == 0) return;
  cuda::with_types(a, [&](auto x_number, auto y_number) {
    using X = decltype(x_number);
    using Y = decltype(y_number);
    auto* y = static_cast<Y*>(result.y);
    const bool fours = cuda::in_fours(static_cast<const X*>(a.x), a.size) && cuda::in_fours(y, a.size) &&
                       cuda::in_fours(a.weight, a.size) && cuda::in_fours(a.bias, a.size);
    cuda::with_plan<X, Y>(a.size, fours, [&](auto plan, int team) {
      const int64_t blocks = cuda::divide_up(a.rows, cuda::kThreads / team);
      if (blocks > INT32_MAX) throw std::runtime_error("[row_norm] too many rows");
      cuda::launch("row_norm", queue, {static_cast<unsigned>(blocks), cuda::kThreads},
                   cuda::row_norm_forward<decltype(plan)>, a, y, team);
    });
  });
}

void row_norm_backward_cuda(const RowNormArgs& a, const RowNormGradients& out, CudaQueue& queue) {
  const bool wanted = out.dweight != nullptr || out.dbias != nullptr;
  float* partials = nullptr;
  int64_t blocks = 0;
  if (a.rows * a.size > 0) {
    cuda::with_types(a, [&](auto x_number, auto y_number) {
      using X = decltype(x_number);
      using Y = decltype(y_number);
      const bool fours = cuda::in_fours(static_cast<const X*>(a.x), a.size) &&
                         cuda::in_fours(static_cast<const Y*>(out.dy), a.size) &&
                         cuda::in_fours(static_cast<const X*>(out.dx), a.size) && cuda::in_fours(a.weight, a.size);
      cuda::with_plan<X, Y>(a.size, fours, [&](auto plan, int team) {
        const int64_t rows = cuda::kThreads / team;
        blocks = std::min(cuda::divide_up(a.rows, rows),
                          std::max<int64_t>(cuda::kFewBlocks, cuda::divide_up(a.rows, rows * cuda::kMostRows)));
        if (wanted) partials = queue.scratch_of<float>(blocks * 2 * a.size);
        cuda::launch("row_norm", queue, {static_cast<unsigned>(blocks), cuda::kThreads},
                     cuda::row_norm_backward<decltype(plan)>, a, out, team, partials);
      });
    });
  }
  if (wanted) cuda::sum_partials("row_norm", partials, blocks, a.size, out.dweight, out.dbias, queue);
}

}  // namespace megalodon::ops
