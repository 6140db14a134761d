// How the CUDA kernels of timestep_norm walk through time in parallel and read x from memory once.
//
// A block of threads takes one tile: up to 32 neighbouring steps of a slab of groups. It needs what all tiles before it
// add up to (behind it, in the backward pass), and gets it by looking back at what they have published: tiles of a
// chain (same sequence, same slab) come in links of 32. A tile publishes its own total as soon as it has it; the last
// tile of a link publishes the total of everything up to its end. So a tile waits for the end of the link before it and
// for the tiles before it in its own link, and one warp adds these up, one lane for each of them. The order of all
// additions is fixed, and with it every bit of the result, whoever comes first. Hops from link to link take a few
// microseconds each, while the tiles of a link, of all slabs, keep the memory busy for longer.
//
// Tiles are numbered by a counter in the order in which blocks begin, not by blockIdx: whatever a tile waits for
// belongs to a block that runs already and will end. When the tile's total is known its numbers are read a second time,
// from the caches: all tiles that are at work at once take some 20 MB.
#pragma once

#include <algorithm>

#include "ops/cuda_kernel.cuh"
#include "ops/row_norm/run_math.cuh"
#include "ops/timestep_norm/timestep_norm_kernel.h"

namespace megalodon::ops::cuda {

constexpr int kTileThreads = 256, kTileWarps = kTileThreads / kWarp;
constexpr int kTileSteps = kWarp;     // at most: a scan over the steps has a lane for each
constexpr int kTileGroups = 32;       // at most, for the shared memory
constexpr int kTileFeatures = 256;    // aimed at, or twice as many: runs of 1 or 2 KiB in memory
constexpr int kTileElements = 16384;  // at most, where a group is not larger still
constexpr int kRow = kTileSteps + 1;  // of one group in shared memory: an odd stride spreads groups over the banks
constexpr int kLink = kWarp;

struct TileShape {
  int steps, groups;
  int64_t tiles, slabs, links;  // tiles along time and links of them, slabs along the groups

  /// With tiles about `features` wide.
  TileShape(const TimestepNormArgs& a, int64_t features) {
    groups = static_cast<int>(std::min(a.G, std::clamp<int64_t>(features / a.K, 1, kTileGroups)));
    steps = kTileSteps;
    while (steps > 1 && steps * groups * a.K > kTileElements) steps /= 2;
    tiles = divide_up(a.L, steps);
    slabs = divide_up(a.G, groups);
    links = divide_up(tiles, kLink);
  }
};

/// What tiles tell each other: two float64 numbers per group, and a count of steps with whether a document began among
/// them.
struct Reach {
  int64_t steps;
  int start;
};

struct LookBack {
  unsigned* next_tile = nullptr;   // null where chains are single tiles: nothing below is used then
  unsigned* tile_ready = nullptr;  // [B, slabs, tiles]
  unsigned* link_ready = nullptr;  // [B, slabs, links]
  double2* tile_total = nullptr;   // [B, tiles, G], tiles in the order of the chain
  double2* link_total = nullptr;   // [B, links, G], of all before the link
  Reach* tile_reach = nullptr;     // [B, slabs, tiles]
  Reach* link_reach = nullptr;     // [B, slabs, links]

  LookBack(const TimestepNormArgs& a, const TileShape& shape, CudaQueue& queue, const char* op) {
    if (shape.tiles == 1) return;
    const int64_t chains = a.B * shape.slabs, ready = chains * (shape.tiles + shape.links) + 1;
    next_tile = queue.scratch_of<unsigned>(ready);
    tile_ready = next_tile + 1;
    link_ready = tile_ready + chains * shape.tiles;
    check(cudaMemsetAsync(next_tile, 0, static_cast<size_t>(ready) * sizeof(unsigned), queue.stream()), op);
    tile_total = queue.scratch_of<double2>(a.B * shape.tiles * a.G);
    link_total = queue.scratch_of<double2>(a.B * shape.links * a.G);
    tile_reach = queue.scratch_of<Reach>(chains * shape.tiles);
    link_reach = queue.scratch_of<Reach>(chains * shape.links);
  }
};

/// One block's part. `at` counts along the chain: with time going forward, against it going backward.
struct Tile {
  int64_t b, slab, at;
  int64_t first_step, first_group;
  int steps, groups;

  __device__ bool ends_link(const TileShape& shape) const { return at % kLink == kLink - 1 && at + 1 < shape.tiles; }
  __device__ bool is_read_in_link(const TileShape& shape) const {
    return at % kLink != kLink - 1 && at + 1 < shape.tiles;
  }
};

__device__ __forceinline__ Tile take_tile(const TimestepNormArgs& a, const TileShape& shape, const LookBack& look_back,
                                          bool backward) {
  __shared__ unsigned number;
  if (threadIdx.x == 0) number = look_back.next_tile != nullptr ? atomicAdd(look_back.next_tile, 1u) : blockIdx.x;
  __syncthreads();
  Tile tile;
  tile.slab = number % shape.slabs;
  tile.b = number / shape.slabs % a.B;
  tile.at = number / shape.slabs / a.B;
  tile.first_step = (backward ? shape.tiles - 1 - tile.at : tile.at) * shape.steps;
  tile.first_group = tile.slab * shape.groups;
  tile.steps = static_cast<int>(min(static_cast<int64_t>(shape.steps), a.L - tile.first_step));
  tile.groups = static_cast<int>(min(static_cast<int64_t>(shape.groups), a.G - tile.first_group));
  return tile;
}

__device__ __forceinline__ int lane_id() {
  return static_cast<int>(threadIdx.x) % kWarp;
}
__device__ __forceinline__ int warp_id() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

/// Says that what the block has written before is there to be read; called by the whole block, for nothing if `say` is
/// false.
__device__ __forceinline__ void publish(unsigned* ready, bool say) {
  __syncthreads();
  if (!say || threadIdx.x != 0) return;
  __threadfence();
  *const_cast<volatile unsigned*>(ready) = 1;
}

/// One lane's view of what is before a tile: lane 0 of everything before the link, lane i of the link's tile i − 1.
struct Source {
  const double2* total_G;  // null: nothing, or (lane 0, first link) what comes before the first tile
  Reach reach;
};

/// Past the first cache, which does not see what other multiprocessors write.
__device__ __forceinline__ Reach load_reach(const Reach* from) {
  return {__ldcg(&from->steps), __ldcg(&from->start)};
}

/// Waits until all that the tile looks back at is there. Called by the whole block.
__device__ __forceinline__ void wait_for_tiles_before(const TileShape& shape, const LookBack& look_back,
                                                      const Tile& tile) {
  const int64_t chain = tile.b * shape.slabs + tile.slab, link = tile.at / kLink;
  const int lane = lane_id();
  if (tile.at > 0 && warp_id() == 0) {
    const unsigned* ready = nullptr;
    if (lane > 0 && lane <= tile.at % kLink)
      ready = look_back.tile_ready + chain * shape.tiles + link * kLink + lane - 1;
    if (lane == 0 && link > 0) ready = look_back.link_ready + chain * shape.links + link;
    while (ready != nullptr && *const_cast<const volatile unsigned*>(ready) == 0) __nanosleep(32);
    __threadfence();
  }
  __syncthreads();
}

__device__ __forceinline__ Source source_of_lane(const TimestepNormArgs& a, const TileShape& shape,
                                                 const LookBack& look_back, const Tile& tile) {
  const int64_t chain = tile.b * shape.slabs + tile.slab, link = tile.at / kLink;
  const int lane = lane_id();
  if (lane == 0 && link > 0)
    return {look_back.link_total + (tile.b * shape.links + link) * a.G + tile.first_group,
            load_reach(look_back.link_reach + chain * shape.links + link)};
  if (lane > 0 && lane <= tile.at % kLink) {
    const int64_t before = link * kLink + lane - 1;
    return {look_back.tile_total + (tile.b * shape.tiles + before) * a.G + tile.first_group,
            load_reach(look_back.tile_reach + chain * shape.tiles + before)};
  }
  return {nullptr, {0, 0}};
}

__device__ __forceinline__ double2 shuffle_up(double2 x, int distance) {
  return {__shfl_up_sync(kAllLanes, x.x, distance), __shfl_up_sync(kAllLanes, x.y, distance)};
}
__device__ __forceinline__ double2 from_last_lane(double2 x) {
  return {__shfl_sync(kAllLanes, x.x, kWarp - 1), __shfl_sync(kAllLanes, x.y, kWarp - 1)};
}

/// How threads share the columns of a tile, packs of kWide features: each has its own and takes every rows()-th step.
template <int kWide>
struct Columns {
  int count, rows, row, first;
  __device__ Columns(const TimestepNormArgs& a, const Tile& tile) {
    const auto thread = static_cast<int>(threadIdx.x);
    count = static_cast<int>(tile.groups * a.K / kWide);
    rows = max(1, kTileThreads / count);
    row = rows > 1 ? thread / count : 0;
    first = rows > 1 ? thread % count : thread;
    if (row >= rows) first = count;  // none is left for this thread
  }
};

/// The grid: one block for every tile.
inline unsigned tile_blocks(const TimestepNormArgs& a, const TileShape& shape, const char* op) {
  const int64_t blocks = a.B * shape.slabs * shape.tiles;
  if (blocks > INT32_MAX) throw std::runtime_error("[" + std::string(op) + "] x has too many steps");
  return static_cast<unsigned>(blocks);
}

}  // namespace megalodon::ops::cuda
