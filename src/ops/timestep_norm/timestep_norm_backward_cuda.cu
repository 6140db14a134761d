// CUDA kernel of timestep_norm, backward; timestep_norm_tiles.cuh says how time is split. One pass over memory, from
// the last step to the first: x and dy are read and dx written once, 10 bytes an element with x in float32 and dy in
// bfloat16. A second, small kernel adds up the tiles' sums for weight and bias.
//
// With g = dy (1 + w), c = x − mean_t and a_t = −rstd Σg, b_t = −rstd³/2 Σgc, the gradients that mean_t and var_t get
// from step t alone, and since mean_t and var_t are sums over all steps so far divided by n_t:
//
//   A_t = Σ (a_r − 2 mean_r b_r) / n_r,  B_t = Σ b_r / n_r         over r >= t of the same document, in float64
//   dx = rstd g + (A_t + 2 mean_t B_t) / K + 2 B_t c / K
//
// The gradient of the final state is one more element behind the last step, and that of the first state is
// dmean0 = n0 (A_0 + 2 mean0 B_0), dvar0 = n0 B_0. Where the last brackets cancel, the terms are |mean|/σ times the
// sum: float64 has digits to spare.
#include "ops/row_norm/column_sums.cuh"
#include "ops/timestep_norm/timestep_norm_tiles.cuh"

namespace megalodon::ops {
namespace cuda {
namespace {

/// Inclusive scan over the lanes of a warp, later steps in lower lanes. `barred`: nothing comes in from lower lanes.
class SuffixScan {
 public:
  __device__ explicit SuffixScan(bool barred) : barred_(barred) {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const bool later = __shfl_up_sync(kAllLanes, static_cast<int>(barred_), 1 << i) != 0;
      adds_[i] = lane_id() >= 1 << i && !barred_;
      barred_ = barred_ || (lane_id() >= 1 << i && later);
    }
  }
  __device__ double2 operator()(double2 x) const {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const double2 later = shuffle_up(x, 1 << i);
      if (adds_[i]) x = {x.x + later.x, x.y + later.y};
    }
    return x;
  }
  /// Whether this lane or one below is barred.
  __device__ bool barred() const {
    return barred_;
  }

 private:
  bool barred_;
  bool adds_[5];
};

/// What phases of a tile hand on in shared memory.
struct Shared {
  Center* centers;  // [groups][kRow]
  double2* sums;    // [groups][kRow]: (A, B); later, as Slope, what dx takes from them
  float* columns;   // [2][kTileThreads · 4], for the sums over rows of threads
};

struct alignas(16) Slope {
  float constant, slope, unused[2];
};

/// Mean and reciprocal deviation of every run.
__device__ void load_centers(const TimestepNormArgs& a, const TimestepNormGradients& out, const Tile& tile,
                             Center* centers) {
  const int64_t begin = (tile.b * a.L + tile.first_step) * a.G + tile.first_group;
  for (int run = static_cast<int>(threadIdx.x); run < tile.steps * tile.groups; run += kTileThreads) {
    const int t = run / tile.groups, g = run % tile.groups;
    const int64_t at = begin + t * a.G + g;
    centers[g * kRow + t] = center(out.mean_BLG[at], out.rstd_BLG[at]);
  }
}

/// (A, B) of every run alone; 0 at masked steps, which are not read.
template <class X, class Y, int kWide>
__device__ void take_sums(const TimestepNormArgs& a, const TimestepNormGradients& out, const Tile& tile, unsigned valid,
                          const double* inverse_counts, const Shared& shared) {
  constexpr int kRuns = 2;  // at a time in each team
  const int team = team_size<kWide>(a.K), teams = kTileThreads / team;
  const int lane = static_cast<int>(threadIdx.x) % team, first = static_cast<int>(threadIdx.x) / team;
  const int runs = tile.steps * tile.groups, stride = team * kWide;
  const int64_t begin = ((tile.b * a.L + tile.first_step) * a.G + tile.first_group) * a.K;
  const X* x = static_cast<const X*>(a.x) + begin;
  const Y* dy = static_cast<const Y*>(out.dy) + begin;
  for (int base = first; base - first < runs; base += kRuns * teams) {
    Pack<kWide> x_head[kRuns], dy_head[kRuns];
    bool counts[kRuns];
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int run = base + i * teams, t = run / tile.groups, g = run % tile.groups;
      counts[i] = run < runs && (valid >> t & 1) != 0;
      if (!counts[i] || lane * kWide >= a.K) continue;
      x_head[i] = load_pack<kWide>(x + (t * a.G + g) * a.K + lane * kWide);
      dy_head[i] = load_pack<kWide>(dy + (t * a.G + g) * a.K + lane * kWide);
    }
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int run = base + i * teams, t = run / tile.groups, g = run % tile.groups;
      const int64_t offset = (t * a.G + g) * a.K;
      const Center c = counts[i] ? shared.centers[g * kRow + t] : Center{};
      float sum_g = 0, sum_gc = 0;
      for (int64_t k = lane * kWide; counts[i] && k < a.K; k += stride) {
        const Pack<kWide> x_pack = k < stride ? x_head[i] : load_pack<kWide>(x + offset + k);
        const Pack<kWide> dy_pack = k < stride ? dy_head[i] : load_pack<kWide>(dy + offset + k);
        const Pack<kWide> scale = load_scale<kWide>(a.weight, (tile.first_group + g) * a.K + k);
#pragma unroll
        for (int j = 0; j < kWide; ++j) {
          const float gradient = dy_pack.value[j] * scale.value[j];
          sum_g += gradient;
          sum_gc = fmaf(gradient, c(x_pack.value[j]), sum_gc);
        }
      }
      sum_g = team_sum(sum_g, team);
      sum_gc = team_sum(sum_gc, team);
      if (lane != 0 || run >= runs) continue;
      const double rstd = c.rstd, part = counts[i] ? inverse_counts[t] : 0;
      const double of_var = -0.5 * rstd * rstd * rstd * sum_gc;
      shared.sums[g * kRow + t] = {(-rstd * sum_g - 2 * c.mean() * of_var) * part, of_var * part};
    }
  }
}

/// The gradient of the final state as one more element.
__device__ __forceinline__ double2 last_element(const TimestepNormArgs& a, const TimestepNormGradients& out,
                                                const Tile& tile, int g) {
  const int64_t at = tile.b * a.G + tile.first_group + g, end = (tile.b + 1) * a.L - 1;
  const int64_t count = out.count_BL[end];
  if (count == 0) return {0, 0};
  const double of_var = out.dvar[at] / static_cast<double>(count);
  const double mean = out.mean_BLG[end * a.G + tile.first_group + g];
  return {out.dmean[at] / static_cast<double>(count) - 2 * mean * of_var, of_var};
}

/// Whether a document starts at a step; none does behind the end.
__device__ __forceinline__ bool starts_at(const TimestepNormArgs& a, const Tile& tile, int64_t step) {
  return a.starts != nullptr && step < a.L && a.starts[tile.b * a.L + step];
}

/// The gradient of the first state; `sum` is that of its document, `others`: documents start after step 0.
__device__ void store_first_state(const TimestepNormArgs& a, const TimestepNormGradients& out, const Tile& tile, int g,
                                  double2 sum, bool others) {
  const int64_t at = tile.b * a.G + tile.first_group + g;
  const int64_t count = a.count0 != nullptr ? a.count0[tile.b] : 0;
  double2 gradient = {0, 0};
  if (starts_at(a, tile, 0)) {
    // Nothing after it sees the state.
  } else if (count > 0) {
    const auto n = static_cast<double>(count);
    gradient = {n * (sum.x + 2 * a.mean0[at] * sum.y), n * sum.y};
  } else if (!others && out.count_BL[(tile.b + 1) * a.L - 1] == 0) {
    gradient = {out.dmean[at], out.dvar[at]};  // all steps are masked: the state passes through
  }
  out.dmean0[at] = gradient.x;
  out.dvar0[at] = gradient.y;
}

/// Adds to the sums of the tile's steps those of all later ones; leaves a Slope for each run.
__device__ void add_later_sums(const TimestepNormArgs& a, const TimestepNormGradients& out, const TileShape& shape,
                               const LookBack& look_back, const Tile& tile, bool barred, const Shared& shared) {
  const int lane = lane_id(), t = kWarp - 1 - lane;
  const Source source = source_of_lane(a, shape, look_back, tile);
  const SuffixScan before(source.reach.start != 0);
  const bool barred_before = __shfl_sync(kAllLanes, static_cast<int>(before.barred()), kWarp - 1) != 0;
  const int64_t next_link = tile.at / kLink + 1, chain = tile.b * shape.slabs + tile.slab;
  const double part = 1.0 / static_cast<double>(a.K);

  for (int g = warp_id(); g < tile.groups; g += kTileWarps) {
    double2 x = {0, 0};
    if (source.total_G != nullptr) x = __ldcg(source.total_G + g);
    if (lane == 0 && tile.at < kLink) x = last_element(a, out, tile, g);
    const double2 later = from_last_lane(before(x));
    double2 sum = shared.sums[g * kRow + t];
    if (!barred) sum = {sum.x + later.x, sum.y + later.y};
    if (t < tile.steps) {
      const double mean = shared.centers[g * kRow + t].mean();
      reinterpret_cast<Slope*>(shared.sums)[g * kRow + t] = {
          static_cast<float>((sum.x + 2 * mean * sum.y) * part), static_cast<float>(2 * sum.y * part), {0, 0}};
    }
    if (lane != kWarp - 1) continue;
    if (tile.ends_link(shape))
      look_back.link_total[(tile.b * shape.links + next_link) * a.G + tile.first_group + g] = sum;
    if (tile.at + 1 == shape.tiles) store_first_state(a, out, tile, g, sum, barred || barred_before);
  }
  if (tile.ends_link(shape) && threadIdx.x == kWarp - 1)
    look_back.link_reach[chain * shape.links + next_link] = {0, barred || barred_before};
}

/// Adds up what rows of threads have for the same column and writes the tile's part of dweight and dbias.
template <int kWide>
__device__ void store_partials(const TimestepNormArgs& a, const Tile& tile, const Columns<kWide>& columns, int column,
                               Pack<kWide> dscale, Pack<kWide> dshift, float* buffer, float* partial_2D) {
  const int64_t D = a.G * a.K, feature = tile.first_group * a.K + static_cast<int64_t>(column) * kWide;
  if (columns.rows > 1) {
    const int width = columns.count * kWide;
    float* buffer_scale = buffer + columns.row * width + column * kWide;
    float* buffer_shift = buffer_scale + kTileThreads * kWide;
    if (column < columns.count) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) buffer_scale[j] = dscale.value[j], buffer_shift[j] = dshift.value[j];
    }
    __syncthreads();
    if (columns.row != 0 || column >= columns.count) return;
    for (int row = 1; row < columns.rows; ++row) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        dscale.value[j] += buffer_scale[row * width + j];
        dshift.value[j] += buffer_shift[row * width + j];
      }
    }
  }
  store_pack<kWide>(partial_2D + feature, dscale);
  store_pack<kWide>(partial_2D + D + feature, dshift);
}

/// dx of one column, and its sums for weight and bias.
template <class X, class Y, int kWide>
__device__ void differentiate_column(const TimestepNormArgs& a, const TimestepNormGradients& out, const Tile& tile,
                                     unsigned valid, const Shared& shared, const Columns<kWide>& columns, int column,
                                     Pack<kWide>& dscale, Pack<kWide>& dshift) {
  constexpr int kSteps = 2;  // at a time
  const int64_t offset = static_cast<int64_t>(column) * kWide, feature = tile.first_group * a.K + offset;
  const int64_t begin = (tile.b * a.L + tile.first_step) * a.G * a.K + feature;
  const int64_t group = offset / a.K * kRow;
  const X* x = static_cast<const X*>(a.x) + begin;
  const Y* dy = static_cast<const Y*>(out.dy) + begin;
  X* dx = static_cast<X*>(out.dx) + begin;
  const Pack<kWide> scale = load_scale<kWide>(a.weight, feature);
  for (int base = columns.row; base < tile.steps; base += kSteps * columns.rows) {
    Pack<kWide> x_pack[kSteps], dy_pack[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int t = base + i * columns.rows;
      if (t >= tile.steps || (valid >> t & 1) == 0) continue;
      x_pack[i] = load_pack<kWide>(x + t * a.G * a.K);
      dy_pack[i] = load_pack<kWide>(dy + t * a.G * a.K);
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int t = base + i * columns.rows;
      if (t >= tile.steps) break;
      Pack<kWide> result{};
      if ((valid >> t & 1) != 0) {
        const Center c = shared.centers[group + t];
        const Slope slope = reinterpret_cast<const Slope*>(shared.sums)[group + t];
#pragma unroll
        for (int j = 0; j < kWide; ++j) {
          const float deviation = c(x_pack[i].value[j]), gradient = dy_pack[i].value[j];
          result.value[j] = fmaf(gradient * scale.value[j], c.rstd, fmaf(slope.slope, deviation, slope.constant));
          dscale.value[j] = fmaf(gradient, deviation * c.rstd, dscale.value[j]);
          dshift.value[j] += gradient;
        }
      }
      store_pack<kWide>(dx + t * a.G * a.K, result);
    }
  }
}

template <class X, class Y, int kWide>
__device__ void differentiate(const TimestepNormArgs& a, const TimestepNormGradients& out, const TileShape& shape,
                              const Tile& tile, unsigned valid, const Shared& shared, float* partials) {
  const Columns<kWide> columns(a, tile);
  float* partial_2D = partials + (tile.b * shape.tiles + tile.at) * 2 * a.G * a.K;
  int column = columns.first;
  do {  // once, also in threads without a column, where rows of threads meet
    Pack<kWide> dscale{}, dshift{};
    if (column < columns.count)
      differentiate_column<X, Y, kWide>(a, out, tile, valid, shared, columns, column, dscale, dshift);
    if (partials != nullptr && (columns.rows > 1 || column < columns.count))
      store_partials<kWide>(a, tile, columns, column, dscale, dshift, shared.columns, partial_2D);
    column += kTileThreads;
  } while (column < columns.count);
}

template <class X, class Y, int kWide>
__global__ void __launch_bounds__(kTileThreads, 3)
    timestep_norm_backward(TimestepNormArgs a, TimestepNormGradients out, TileShape shape, LookBack look_back,
                           float* partials) {
  auto* tile_memory = dynamic_shared<double2>();
  __shared__ double inverse_counts[kTileSteps];
  static_assert(sizeof(Center) == sizeof(double2) && sizeof(Slope) == sizeof(double2), "shared memory is laid out so");
  const Shared shared = {reinterpret_cast<Center*>(tile_memory), tile_memory + shape.groups * kRow,
                         reinterpret_cast<float*>(tile_memory + 2 * shape.groups * kRow)};
  const Tile tile = take_tile(a, shape, look_back, /*backward=*/true);
  const int64_t chain = tile.b * shape.slabs + tile.slab;
  const int lane = lane_id(), t = kWarp - 1 - lane;  // in scans; later steps are in lower lanes
  const int64_t of_lane = tile.b * a.L + tile.first_step + lane;
  const bool is_valid = lane < tile.steps && (a.mask == nullptr || !a.mask[of_lane]);
  const unsigned valid = __ballot_sync(kAllLanes, is_valid);
  if (warp_id() == 0) inverse_counts[lane] = is_valid ? 1.0 / static_cast<double>(out.count_BL[of_lane]) : 0;
  load_centers(a, out, tile, shared.centers);
  __syncthreads();
  take_sums<X, Y, kWide>(a, out, tile, valid, inverse_counts, shared);
  __syncthreads();

  const SuffixScan scan(t < tile.steps && starts_at(a, tile, tile.first_step + t + 1));
  const bool publishes = tile.is_read_in_link(shape);
  for (int g = warp_id(); g < tile.groups; g += kTileWarps) {
    const double2 total = scan(t < tile.steps ? shared.sums[g * kRow + t] : double2{0, 0});
    shared.sums[g * kRow + t] = total;
    if (publishes && t == 0)
      look_back.tile_total[(tile.b * shape.tiles + tile.at) * a.G + tile.first_group + g] = total;
  }
  if (look_back.next_tile != nullptr) {
    if (publishes && threadIdx.x == kWarp - 1) look_back.tile_reach[chain * shape.tiles + tile.at] = {0, scan.barred()};
    publish(look_back.tile_ready + chain * shape.tiles + tile.at, publishes);
    wait_for_tiles_before(shape, look_back, tile);
  }
  add_later_sums(a, out, shape, look_back, tile, scan.barred(), shared);
  publish(look_back.link_ready + chain * shape.links + tile.at / kLink + 1, tile.ends_link(shape));
  differentiate<X, Y, kWide>(a, out, shape, tile, valid, shared, partials);
}

// ---------------------------------------------------------------------------------------------------------------------

template <class X, class Y>
bool reads_in_fours(const TimestepNormArgs& a, const X* x, const X* dx, const Y* dy) {
  return in_fours(x, a.K) && in_fours(dx, a.K) && in_fours(dy, a.K) && in_fours(a.weight, a.K);
}

}  // namespace
}  // namespace cuda

void timestep_norm_backward_cuda(const TimestepNormArgs& a, const TimestepNormGradients& out, CudaQueue& queue) {
  constexpr const char* kOp = "timestep_norm";
  const cuda::TileShape shape(a, cuda::kTileFeatures);
  const int64_t D = a.G * a.K, parts = a.B * shape.tiles;
  const bool wanted = out.dweight != nullptr || out.dbias != nullptr;
  float* partials = wanted ? queue.scratch_of<float>(parts * 2 * D) : nullptr;
  if (a.B > 0) {
    const cuda::LookBack look_back(a, shape, queue, kOp);
    const unsigned blocks = cuda::tile_blocks(a, shape, kOp);
    cuda::with_type(a.x_type, [&](auto x) {
      cuda::with_type(a.y_type, [&](auto y) {
        using X = decltype(x);
        using Y = decltype(y);
        const bool fours = cuda::reads_in_fours(a, static_cast<const X*>(a.x), static_cast<const X*>(out.dx),
                                                static_cast<const Y*>(out.dy));
        const size_t shared = 2 * static_cast<size_t>(shape.groups) * cuda::kRow * sizeof(double2) +
                              2 * cuda::kTileThreads * (fours ? 4 : 1) * sizeof(float);
        const auto kernel = fours ? cuda::timestep_norm_backward<X, Y, 4> : cuda::timestep_norm_backward<X, Y, 1>;
        cuda::launch(kOp, queue, {blocks, cuda::kTileThreads, shared}, kernel, a, out, shape, look_back, partials);
      });
    });
  }
  if (wanted) cuda::sum_partials(kOp, partials, parts, D, out.dweight, out.dbias, queue);
}

}  // namespace megalodon::ops
