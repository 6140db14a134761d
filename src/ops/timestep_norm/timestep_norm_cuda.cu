// CUDA kernel of timestep_norm, forward; timestep_norm_tiles.cuh says how time is split. One launch, one pass over
// memory: x is read and y written once (and 12 bytes a step and group for the backward), 6 bytes an element from
// float32 to bfloat16. A sequence of one step (decoding) needs no look-back and nothing but the one kernel.
//
// A team of lanes takes mean and variance of every (step, group) run about its own mean; then each warp takes a group,
// one lane per step, and merges the steps in a scan. Everything that depends only on counts is the same for all groups
// and worked out once. mean and variance are merged as the CPU does it, so nothing cancels whatever the mean:
//
//   mean = mean_a + d p,  var = var_a + p (var_b − var_a + d² (1 − p)),  d = mean_b − mean_a,  p = n_b / (n_a + n_b)
#include "ops/timestep_norm/timestep_norm_tiles.cuh"

namespace megalodon::ops {
namespace cuda {
namespace {

/// The share of later steps in a merge: 1 leaves no trace of the earlier ones, 0 none of the later.
__device__ __forceinline__ double later_share(int64_t earlier, int64_t later, int start) {
  if (start != 0) return 1;
  if (later == 0) return 0;
  return static_cast<double>(later) / static_cast<double>(earlier + later);
}

/// (mean, variance) of both.
__device__ __forceinline__ double2 merge(double2 earlier, double2 later, double share) {
  if (share == 1) return later;
  if (share == 0) return earlier;
  const double delta = later.x - earlier.x;
  const double spread = fma(delta * (1 - share), delta, later.y - earlier.y);
  return {fma(delta, share, earlier.x), fma(spread, share, earlier.y)};
}

/// Inclusive scan over the lanes of a warp, for any number of groups with the same counts.
class MergeScan {
 public:
  __device__ explicit MergeScan(Reach own) : reach_(own) {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const int distance = 1 << i;
      const int64_t steps = __shfl_up_sync(kAllLanes, reach_.steps, distance);
      const int start = __shfl_up_sync(kAllLanes, reach_.start, distance);
      share_[i] = 1;
      if (lane_id() < distance) continue;
      share_[i] = later_share(steps, reach_.steps, reach_.start);
      if (reach_.start == 0) reach_ = {reach_.steps + steps, start};
    }
  }
  __device__ double2 operator()(double2 x) const {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const double2 earlier = shuffle_up(x, 1 << i);
      x = merge(earlier, x, share_[i]);
    }
    return x;
  }
  /// Of this lane and those below.
  __device__ Reach reach() const {
    return reach_;
  }

 private:
  Reach reach_;
  double share_[5];
};

/// One bit per step of the tile: whether it counts.
__device__ __forceinline__ unsigned valid_steps(const TimestepNormArgs& a, const Tile& tile) {
  const int64_t step = tile.b * a.L + tile.first_step + lane_id();
  return __ballot_sync(kAllLanes, lane_id() < tile.steps && (a.mask == nullptr || !a.mask[step]));
}

/// (mean, variance) of every run; (0, 1), a fresh state, at masked steps, which are not read.
template <class X, int kWide>
__device__ void take_statistics(const TimestepNormArgs& a, const Tile& tile, unsigned valid, double2* statistics) {
  constexpr int kRuns = 4;  // at a time in each team, so that enough loads are under way
  const int team = team_size<kWide>(a.K), teams = kTileThreads / team;
  const int lane = static_cast<int>(threadIdx.x) % team, first = static_cast<int>(threadIdx.x) / team;
  const int runs = tile.steps * tile.groups, stride = team * kWide;
  const double part = 1.0 / static_cast<double>(a.K);
  const X* tile_x = static_cast<const X*>(a.x) + ((tile.b * a.L + tile.first_step) * a.G + tile.first_group) * a.K;
  for (int base = 0; base < runs; base += kRuns * teams) {
    const X* x[kRuns];
    Pack<kWide> head[kRuns];
    bool counts[kRuns];
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int run = base + i * teams + first, t = run / tile.groups, g = run % tile.groups;
      counts[i] = run < runs && (valid >> t & 1) != 0;
      x[i] = tile_x + (t * a.G + g) * a.K;
      if (counts[i] && lane * kWide < a.K) head[i] = load_pack<kWide>(x[i] + lane * kWide);
    }
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      double sum = 0;
      for (int64_t k = lane * kWide; counts[i] && k < a.K; k += stride) {
        const Pack<kWide> pack = k < stride ? head[i] : load_pack<kWide>(x[i] + k);
#pragma unroll
        for (int j = 0; j < kWide; ++j) sum += pack.value[j];
      }
      const double mean = team_sum(sum, team) * part;
      const Center c = center(mean, 0);
      float squares = 0;
      for (int64_t k = lane * kWide; counts[i] && k < a.K; k += stride) {
        const Pack<kWide> pack = k < stride ? head[i] : load_pack<kWide>(x[i] + k);
#pragma unroll
        for (int j = 0; j < kWide; ++j) squares = fmaf(c(pack.value[j]), c(pack.value[j]), squares);
      }
      const double var = static_cast<double>(team_sum(squares, team)) * part;
      const int run = base + i * teams + first;
      if (lane == 0 && run < runs)
        statistics[run % tile.groups * kRow + run / tile.groups] = counts[i] ? double2{mean, var} : double2{0, 1};
    }
  }
}

/// The state before the sequence.
__device__ __forceinline__ double2 first_state(const TimestepNormArgs& a, const Tile& tile, int g) {
  const int64_t at = tile.b * a.G + tile.first_group + g;
  return a.count0 != nullptr ? double2{a.mean0[at], a.var0[at]} : double2{0, 1};
}

/// Continues the steps of the tile from all before it; leaves a Center for each run, and the state after the tile.
__device__ void continue_statistics(const TimestepNormArgs& a, const TimestepNormResult& out, const TileShape& shape,
                                    const LookBack& look_back, const Tile& tile, Reach reach, double2* statistics) {
  const int lane = lane_id();
  Source source = source_of_lane(a, shape, look_back, tile);
  const bool first = lane == 0 && tile.at < kLink;
  if (first) source.reach.steps = a.count0 != nullptr ? a.count0[tile.b] : 0;
  const MergeScan before(source.reach);
  const Reach up_to = {__shfl_sync(kAllLanes, before.reach().steps, kWarp - 1),
                       __shfl_sync(kAllLanes, before.reach().start, kWarp - 1)};
  const double share = later_share(up_to.steps, reach.steps, reach.start);
  const int64_t count = reach.start != 0 ? reach.steps : up_to.steps + reach.steps;
  const int64_t next_link = tile.at / kLink + 1, chain = tile.b * shape.slabs + tile.slab;

  for (int g = warp_id(); g < tile.groups; g += kTileWarps) {
    double2 x = {0, 1};
    if (source.total_G != nullptr) x = __ldcg(source.total_G + g);
    if (first) x = first_state(a, tile, g);
    const double2 state = merge(from_last_lane(before(x)), statistics[g * kRow + lane], share);
    const float rstd = 1.0f / sqrtf(static_cast<float>(state.y + a.eps));
    reinterpret_cast<Center*>(statistics)[g * kRow + lane] = center(state.x, rstd);
    if (lane != kWarp - 1) continue;
    const int64_t group = tile.first_group + g;
    if (tile.ends_link(shape)) look_back.link_total[(tile.b * shape.links + next_link) * a.G + group] = state;
    if (tile.at + 1 == shape.tiles) out.mean[tile.b * a.G + group] = state.x, out.var[tile.b * a.G + group] = state.y;
  }
  if (warp_id() != 0) return;
  if (tile.slab == 0 && out.count_BL != nullptr && lane < tile.steps)
    out.count_BL[tile.b * a.L + tile.first_step + lane] = count;
  if (lane != kWarp - 1) return;
  if (tile.ends_link(shape)) look_back.link_reach[chain * shape.links + next_link] = {count, reach.start | up_to.start};
  if (tile.slab == 0 && tile.at + 1 == shape.tiles) out.count[tile.b] = count;
}

/// y, and what the backward wants of the statistics.
template <class X, class Y, int kWide>
__device__ void normalize(const TimestepNormArgs& a, const TimestepNormResult& out, const Tile& tile, unsigned valid,
                          const Center* centers) {
  constexpr int kSteps = 4;  // at a time, so that enough loads are under way
  const int64_t begin = (tile.b * a.L + tile.first_step) * a.G + tile.first_group;
  const Columns<kWide> columns(a, tile);
  for (int column = columns.first; column < columns.count; column += kTileThreads) {
    const int64_t offset = static_cast<int64_t>(column) * kWide, feature = tile.first_group * a.K + offset;
    const Center* center_T = centers + offset / a.K * kRow;
    const X* x = static_cast<const X*>(a.x) + begin * a.K + offset;
    Y* y = static_cast<Y*>(out.y) + begin * a.K + offset;
    const Pack<kWide> scale = load_scale<kWide>(a.weight, feature);
    Pack<kWide> shift{};
    if (a.bias != nullptr) shift = load_pack<kWide>(a.bias + feature);
    for (int base = columns.row; base < tile.steps; base += kSteps * columns.rows) {
      Pack<kWide> pack[kSteps];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int t = base + i * columns.rows;
        if (t < tile.steps && (valid >> t & 1) != 0) pack[i] = load_pack<kWide>(x + t * a.G * a.K);
      }
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int t = base + i * columns.rows;
        if (t >= tile.steps) break;
        const Center c = center_T[t];
        Pack<kWide> result{};
        if ((valid >> t & 1) != 0) {
#pragma unroll
          for (int j = 0; j < kWide; ++j)
            result.value[j] = fmaf(c(pack[i].value[j]) * c.rstd, scale.value[j], shift.value[j]);
        }
        store_pack<kWide>(y + t * a.G * a.K, result);
      }
    }
  }
  if (out.mean_BLG == nullptr) return;
  for (int run = static_cast<int>(threadIdx.x); run < tile.steps * tile.groups; run += kTileThreads) {
    const int t = run / tile.groups, g = run % tile.groups;
    const Center c = centers[g * kRow + t];
    out.mean_BLG[begin + t * a.G + g] = c.mean();
    out.rstd_BLG[begin + t * a.G + g] = c.rstd;
  }
}

template <class X, class Y, int kWide>
__global__ void __launch_bounds__(kTileThreads, 3)
    timestep_norm_forward(TimestepNormArgs a, TimestepNormResult out, TileShape shape, LookBack look_back) {
  auto* tile_memory = dynamic_shared<double2>();  // [groups][kRow]: (mean, variance), later a Center
  static_assert(sizeof(Center) == sizeof(double2), "they take turns in shared memory");
  const Tile tile = take_tile(a, shape, look_back, /*backward=*/false);
  const int64_t chain = tile.b * shape.slabs + tile.slab;
  const unsigned valid = valid_steps(a, tile);
  take_statistics<X, kWide>(a, tile, valid, tile_memory);
  __syncthreads();

  const int lane = lane_id();
  const bool is_step = lane < tile.steps;
  const bool start = is_step && a.starts != nullptr && a.starts[tile.b * a.L + tile.first_step + lane];
  const MergeScan scan({valid >> lane & 1, start});
  const bool publishes = tile.is_read_in_link(shape);
  for (int g = warp_id(); g < tile.groups; g += kTileWarps) {
    const double2 total = scan(is_step ? tile_memory[g * kRow + lane] : double2{0, 1});
    tile_memory[g * kRow + lane] = total;
    if (publishes && lane == kWarp - 1)
      look_back.tile_total[(tile.b * shape.tiles + tile.at) * a.G + tile.first_group + g] = total;
  }
  if (look_back.next_tile != nullptr) {
    if (publishes && threadIdx.x == kWarp - 1) look_back.tile_reach[chain * shape.tiles + tile.at] = scan.reach();
    publish(look_back.tile_ready + chain * shape.tiles + tile.at, publishes);
    wait_for_tiles_before(shape, look_back, tile);
  }
  continue_statistics(a, out, shape, look_back, tile, scan.reach(), tile_memory);
  publish(look_back.link_ready + chain * shape.links + tile.at / kLink + 1, tile.ends_link(shape));
  normalize<X, Y, kWide>(a, out, tile, valid, reinterpret_cast<const Center*>(tile_memory));
}

// ---------------------------------------------------------------------------------------------------------------------

/// Wide tiles, 64 KiB of float32, hide more of what a tile waits for; narrow ones where the GPU would not be full of
/// wide ones (132 multiprocessors with three blocks each).
int64_t tile_features(const TimestepNormArgs& a) {
  return a.B * a.L * a.G * a.K >= int64_t{kTileElements} * 400 ? 2 * kTileFeatures : kTileFeatures;
}

template <class X, class Y>
bool reads_in_fours(const TimestepNormArgs& a, const X* x, const Y* y) {
  return in_fours(x, a.K) && in_fours(y, a.K) && in_fours(a.weight, a.K) && in_fours(a.bias, a.K);
}

}  // namespace
}  // namespace cuda

void timestep_norm_forward_cuda(const TimestepNormArgs& a, const TimestepNormResult& result, CudaQueue& queue) {
  constexpr const char* kOp = "timestep_norm";
  if (a.B == 0) return;
  const cuda::TileShape shape(a, cuda::tile_features(a));
  const cuda::LookBack look_back(a, shape, queue, kOp);
  const unsigned blocks = cuda::tile_blocks(a, shape, kOp);
  const size_t shared = static_cast<size_t>(shape.groups) * cuda::kRow * sizeof(double2);
  cuda::with_type(a.x_type, [&](auto x) {
    cuda::with_type(a.y_type, [&](auto y) {
      using X = decltype(x);
      using Y = decltype(y);
      const bool fours = cuda::reads_in_fours(a, static_cast<const X*>(a.x), static_cast<const Y*>(result.y));
      const auto kernel = fours ? cuda::timestep_norm_forward<X, Y, 4> : cuda::timestep_norm_forward<X, Y, 1>;
      cuda::launch(kOp, queue, {blocks, cuda::kTileThreads, shared}, kernel, a, result, shape, look_back);
    });
  });
}

}  // namespace megalodon::ops
