// Flash-style attention: scores live in one 96 x 96 tile on the stack, softmax runs along with a maximum and a sum per
// query, the backward recomputes the probabilities from the saved log-sum-exp. Work is split over (row, head, tile);
// a task writes only what it owns and visits tiles in a fixed order, so results do not depend on the threads.
//
// Tiles are skipped where no query sees any key, and inside a tile rows and columns are trimmed to blocks of 6 x 16, so
// chunks and documents that end anywhere cost little more than their visible pairs.
#include "ops/chunk_attention/chunk_attention_kernel.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/chunk_attention/chunk_attention_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h: a block of its own

#include "hwy/aligned_allocator.h"
#include "hwy/highway.h"
#include "ops/chunk_attention/exp-inl.h"
#include "ops/chunk_attention/tile_matmul-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {

constexpr float kLowest = -3.0e38f;

/// What a row of the tile sees of the vector of columns that starts at c: the lanes lo <= lane < hi.
struct RowVector {
  int64_t lo, hi;
  bool none() const { return hi <= 0 || lo >= kLanes; }
  bool all() const { return lo <= 0 && hi >= kLanes; }
};
inline RowVector look(const VisibleColumns& visible, int64_t r, int64_t c) {
  return {visible.lo[r] - c, visible.hi[r] - c};
}
/// x where the row sees, `otherwise` elsewhere (whatever x holds there).
inline Vec where_seen(const RowVector& seen, Vec x, Vec otherwise) {
  if (seen.all()) return x;
  const Vec lane = hn::Iota(d, 0);
  return hn::IfThenElse(hn::And(hn::Ge(lane, hn::Set(d, static_cast<float>(seen.lo))),
                                hn::Lt(lane, hn::Set(d, static_cast<float>(seen.hi)))),
                        x, otherwise);
}

// Numbers as the products go along them: float32, or pairs of bfloat16 that count as one element of 32 bits.
inline bool in_pairs(const ChunkAttentionArgs& a) {
  return a.type == NumberType::kBfloat16;
}
inline int64_t k_elements(const ChunkAttentionArgs& a) {
  return in_pairs(a) ? a.K / 2 : a.K;
}
inline int64_t v_elements(const ChunkAttentionArgs& a) {
  return in_pairs(a) ? a.V / 2 : a.V;
}
inline const float* elements(const void* numbers) {
  return static_cast<const float*>(numbers);
}
inline float* floats(void* numbers) {
  return static_cast<float*>(numbers);
}

/// One side of a tile: `count` positions from `first` on, their K-wide (q or k) and V-wide (dy or v) rows, in elements.
struct Side {
  int64_t first, count;
  const float *x, *z;
};

/// Queries i .. end of head h of row b, one tile at most; z are the rows of dy.
inline Side query_side(const ChunkAttentionArgs& a, const void* dy, int64_t b, int64_t h, int64_t i, int64_t end) {
  const int64_t row = (b * a.L + i) * a.H + h;
  return {i, std::min(kTile, end - i), elements(a.q) + row * k_elements(a),
          dy ? elements(dy) + row * v_elements(a) : nullptr};
}

/// Keys j .. end, one tile at most, never across the seam between prior and new keys.
inline Side key_side(const ChunkAttentionArgs& a, int64_t b, int64_t h, int64_t j, int64_t end) {
  if (j < a.T) {
    const int64_t row = (b * a.T + j) * a.H + h;
    return {j, std::min({kTile, end - j, a.T - j}), elements(a.prior_k) + row * k_elements(a),
            elements(a.prior_v) + row * v_elements(a)};
  }
  const int64_t row = (b * a.L + j - a.T) * a.H + h;
  return {j, std::min(kTile, end - j), elements(a.k) + row * k_elements(a), elements(a.v) + row * v_elements(a)};
}

/// Fills `visible` for the tile whose columns are `outer` and whose rows are `inner`. `begin` is the row's.
template <bool kColumnsAreQueries>
void find_visible(const int64_t* begin, int64_t T, const Side& outer, const Side& inner, VisibleColumns& visible) {
  int64_t hi = 0;
  for (int64_t r = 0; r < inner.count; ++r) {
    const int64_t at = inner.first + r;
    if constexpr (kColumnsAreQueries) {
      while (hi < outer.count && begin[outer.first + hi] <= at) ++hi;
      visible.lo[r] = std::clamp<int64_t>(at - T - outer.first, 0, outer.count);
      visible.hi[r] = hi;
    } else {
      visible.lo[r] = std::clamp<int64_t>(begin[at] - outer.first, 0, outer.count);
      visible.hi[r] = std::clamp<int64_t>(T + at + 1 - outer.first, 0, outer.count);
    }
  }
}

/// The dropout factors of a tile in the layout of its scores.
template <bool kColumnsAreQueries>
void fill_factors(const ChunkAttentionArgs& a, int64_t b, int64_t h, const Side& outer, const Side& inner,
                  float* factor) {
  const Side& queries = kColumnsAreQueries ? outer : inner;
  const Side& keys = kColumnsAreQueries ? inner : outer;
  for (int64_t i = 0; i < queries.count; ++i) {
    Philox4 bits{};
    for (int64_t j = 0; j < keys.count; ++j) {
      const int64_t key = keys.first + j;
      if (j == 0 || key % 4 == 0) bits = attention_dropout_bits(a.dropout_key, b, h, queries.first + i, key / 4);
      factor[kColumnsAreQueries ? j * kTile + i : i * kTile + j] = dropout_factor(bits[key % 4], a.dropout);
    }
  }
}

/// Running softmax of a row block's queries, one per column of the score tile.
struct Softmax {
  HWY_ALIGN float maximum[kTile], sum[kTile],
      rescale[kTile];  // rescale: what earlier tiles' results are multiplied with
};

/// s: scores -> exp(score − maximum), zero where not visible. Column by column: no sum across lanes is ever needed.
inline void softmax_tile(int64_t rows, int64_t columns, const VisibleColumns& visible, float* s, Softmax& state) {
  for (int64_t c = 0; c < columns; c += kLanes) {
    const Vec before = hn::Load(d, state.maximum + c);
    Vec maximum = before;
    for (int64_t r = 0; r < rows; ++r) {
      const RowVector seen = look(visible, r, c);
      if (!seen.none()) maximum = hn::Max(maximum, where_seen(seen, hn::Load(d, s + r * kTile + c), maximum));
    }
    const Vec rescale = exp_nonpositive(d, hn::Sub(before, maximum));
    Vec sum = hn::Mul(rescale, hn::Load(d, state.sum + c));
    for (int64_t r = 0; r < rows; ++r) {
      const RowVector seen = look(visible, r, c);
      Vec p = hn::Zero(d);
      if (!seen.none()) {
        p = where_seen(seen, exp_nonpositive(d, hn::Sub(hn::Load(d, s + r * kTile + c), maximum)), p);
        sum = hn::Add(sum, p);
      }
      hn::Store(p, d, s + r * kTile + c);
    }
    hn::Store(maximum, d, state.maximum + c);
    hn::Store(sum, d, state.sum + c);
    hn::Store(rescale, d, state.rescale + c);
  }
}

inline void multiply_tile(int64_t rows, int64_t columns, const float* factor, float* s) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) s[r * kTile + c] *= factor[r * kTile + c];
}

/// A score tile as the factor of an output product: itself, or its pairs in `scratch`.
template <class P>
const float* as_factor(int64_t rows, int64_t columns, const float* s, float* scratch) {
  if constexpr (!P::kPairs) return s;
  pair_rows(rows, columns, s, scratch);
  return scratch;
}

/// y of up to kTile queries, tile of keys by tile of keys.
template <class P>
void forward_tiles(const ChunkAttentionArgs& a, int64_t b, int64_t h, int64_t i) {
  HWY_ALIGN float s[kTile * kTile], pairs[P::kPairs ? kTile * kTile / 2 : 1];
  const auto factor = hwy::AllocateAligned<float>(a.dropout > 0 ? kTile * kTile : 1);
  VisibleColumns visible;
  Softmax state;
  std::fill_n(state.maximum, kTile, kLowest);
  std::fill_n(state.sum, kTile, 0.0f);
  const int64_t* begin = a.begin + b * a.L;
  const Side queries = query_side(a, nullptr, b, h, i, a.L);
  const int64_t K = k_elements(a), x_row = a.H * K, z_row = a.H * v_elements(a);
  const bool few = !P::kPairs && queries.count <= kRows;
  const auto packed = hwy::AllocateAligned<float>(few ? 1 : packed_size(queries.count, K));
  if (!few) pack_transposed<P>(queries.x, x_row, queries.count, K, a.scale, packed.get());
  const int64_t row = (b * a.L + i) * a.H + h, lse = (b * a.H + h) * a.L + i;
  float* y = floats(a.y) + row * a.V;
  const int64_t first = begin[i], end = a.T + i + queries.count;
  for (int64_t j = first; j < end;) {
    const Side keys = key_side(a, b, h, j, end);
    find_visible<true>(begin, a.T, queries, keys, visible);
    if (few)
      score_product_few(keys.count, K, keys.x, x_row, queries.x, x_row, a.scale, visible, s);
    else
      score_product<P>(keys.count, queries.count, K, keys.x, x_row, packed.get(), visible, s);
    softmax_tile(keys.count, queries.count, visible, s, state);
    if (a.dropout > 0) {
      fill_factors<true>(a, b, h, queries, keys, factor.get());
      multiply_tile(keys.count, queries.count, factor.get(), s);
    }
    output_product<P>(keys.count, queries.count, a.V, as_factor<P>(keys.count, queries.count, s, pairs), keys.z, z_row,
                      visible, y, a.H * a.V, j == first ? nullptr : state.rescale);
    j += keys.count;
  }
  for (int64_t c = 0; c < queries.count; ++c) {
    const float inverse = 1.0f / state.sum[c];
    for (int64_t e = 0; e < a.V; ++e) y[c * a.H * a.V + e] *= inverse;
    a.lse[lse + c] = state.maximum[c] + std::log(state.sum[c]);
  }
}

inline void forward_task(const ChunkAttentionArgs& a, int64_t b, int64_t h, int64_t i) {
  (in_pairs(a) ? forward_tiles<Pairs> : forward_tiles<Singles>)(a, b, h, i);
}

/// delta = Σ_e dy · y, which is Σ_j p_ij dp_ij.
inline void delta_task(const ChunkAttentionGradArgs& g, int64_t b, int64_t h, int64_t i) {
  const ChunkAttentionArgs& a = g.forward;
  for (const int64_t end = std::min(a.L, i + kTile); i < end; ++i) {
    const int64_t row = ((b * a.L + i) * a.H + h) * a.V;
    g.delta[(b * a.H + h) * a.L + i] = dot(a.V, g.dy + row, elements(a.y) + row);
  }
}

/// s: scores -> probabilities; dp: Σ_e dy v -> gradient of q·k. lse, delta and scale run along the queries.
template <bool kColumnsAreQueries>
void gradient_tile(int64_t rows, int64_t columns, const VisibleColumns& visible, const float* factor, const float* lse,
                   const float* delta, const float* scale, float* s, float* dp) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; c += kLanes) {
      const RowVector seen = look(visible, r, c);
      const int64_t at = r * kTile + c;
      const Vec zero = hn::Zero(d);
      Vec p = zero, ds = zero;
      if (!seen.none()) {
        const Vec lse_here = kColumnsAreQueries ? hn::Load(d, lse + c) : hn::Set(d, lse[r]);
        const Vec delta_here = kColumnsAreQueries ? hn::Load(d, delta + c) : hn::Set(d, delta[r]);
        const Vec scale_here = kColumnsAreQueries ? hn::Load(d, scale + c) : hn::Set(d, scale[r]);
        p = exp_nonpositive(d, hn::Sub(hn::Load(d, s + at), lse_here));
        Vec dy_v = hn::Load(d, dp + at), dropped = p;
        if (factor != nullptr) {
          dy_v = hn::Mul(dy_v, hn::Load(d, factor + at));
          dropped = hn::Mul(p, hn::Load(d, factor + at));
        }
        ds = where_seen(seen, hn::Mul(hn::Mul(p, scale_here), hn::Sub(dy_v, delta_here)), zero);
        p = where_seen(seen, dropped, zero);
      }
      hn::Store(p, d, s + at);
      hn::Store(ds, d, dp + at);
    }
}

/// Of the gradients of the queries' scores. A query that sees one key weighs it with 1 whatever the score is: its
/// gradient is 0, where dy·v − delta would leave the rounding errors of two sums.
inline void fill_scales(const ChunkAttentionArgs& a, int64_t b, const Side& queries, float* scale) {
  const int64_t* begin = a.begin + b * a.L + queries.first;
  for (int64_t i = 0; i < queries.count; ++i) scale[i] = begin[i] == a.T + queries.first + i ? 0 : a.scale;
}

/// Gradients of one outer tile: of queries (dx = dq) or of keys (dx = dk, dz = dv) against all they see.
template <class P, bool kColumnsAreQueries>
void gradient_tiles(const ChunkAttentionGradArgs& g, int64_t b, int64_t h, const Side& outer, int64_t lo, int64_t hi,
                    float* dx, float* dz) {
  const ChunkAttentionArgs& a = g.forward;
  const int64_t K = k_elements(a), V = v_elements(a), x_row = a.H * K, z_row = a.H * V;
  HWY_ALIGN float s[kTile * kTile], dp[kTile * kTile], pairs[P::kPairs ? kTile * kTile / 2 : 1];
  HWY_ALIGN float lse[kTile] = {}, delta[kTile] = {}, scale[kTile] = {};
  const auto factor = hwy::AllocateAligned<float>(a.dropout > 0 ? kTile * kTile : 1);
  VisibleColumns visible;
  const auto x = hwy::AllocateAligned<float>(packed_size(outer.count, K));
  const auto z = hwy::AllocateAligned<float>(packed_size(outer.count, V));
  pack_transposed<P>(outer.x, x_row, outer.count, K, a.scale, x.get());
  pack_transposed<P>(outer.z, z_row, outer.count, V, 1, z.get());
  const float* head_lse = a.lse + (b * a.H + h) * a.L;
  const float* head_delta = g.delta + (b * a.H + h) * a.L;
  for (int64_t at = lo; at < hi;) {
    const Side inner = kColumnsAreQueries ? key_side(a, b, h, at, hi) : query_side(a, g.dy_factor, b, h, at, hi);
    const Side& queries = kColumnsAreQueries ? outer : inner;
    std::copy_n(head_lse + queries.first, queries.count, lse);
    std::copy_n(head_delta + queries.first, queries.count, delta);
    fill_scales(a, b, queries, scale);
    find_visible<kColumnsAreQueries>(a.begin + b * a.L, a.T, outer, inner, visible);
    score_product<P>(inner.count, outer.count, K, inner.x, x_row, x.get(), visible, s);
    score_product<P>(inner.count, outer.count, V, inner.z, z_row, z.get(), visible, dp);
    if (a.dropout > 0) fill_factors<kColumnsAreQueries>(a, b, h, outer, inner, factor.get());
    gradient_tile<kColumnsAreQueries>(inner.count, outer.count, visible, a.dropout > 0 ? factor.get() : nullptr, lse,
                                      delta, scale, s, dp);
    const float* beta = at == lo ? nullptr : kOnes.data();
    output_product<P>(inner.count, outer.count, a.K, as_factor<P>(inner.count, outer.count, dp, pairs), inner.x, x_row,
                      visible, dx, a.H * a.K, beta);
    if (dz != nullptr)
      output_product<P>(inner.count, outer.count, a.V, as_factor<P>(inner.count, outer.count, s, pairs), inner.z, z_row,
                        visible, dz, a.H * a.V, beta);
    at += inner.count;
  }
}

template <bool kColumnsAreQueries>
void gradient_task(const ChunkAttentionGradArgs& g, int64_t b, int64_t h, const Side& outer, int64_t lo, int64_t hi,
                   float* dx, float* dz) {
  (in_pairs(g.forward) ? gradient_tiles<Pairs, kColumnsAreQueries>
                       : gradient_tiles<Singles, kColumnsAreQueries>)(g, b, h, outer, lo, hi, dx, dz);
}

inline void query_gradient_task(const ChunkAttentionGradArgs& g, int64_t b, int64_t h, int64_t i) {
  const ChunkAttentionArgs& a = g.forward;
  const Side queries = query_side(a, g.dy_factor, b, h, i, a.L);
  gradient_task<true>(g, b, h, queries, a.begin[b * a.L + i], a.T + i + queries.count,
                      floats(g.dq) + ((b * a.L + i) * a.H + h) * a.K, nullptr);
}

/// Keys from j on: up to kTile of the prior ones or of the new ones.
inline void key_gradient_task(const ChunkAttentionGradArgs& g, int64_t b, int64_t h, int64_t j) {
  const ChunkAttentionArgs& a = g.forward;
  const Side keys = key_side(a, b, h, j, a.T + a.L);
  const int64_t row = j < a.T ? (b * a.T + j) * a.H + h : (b * a.L + j - a.T) * a.H + h;
  float* dk = floats(j < a.T ? g.dprior_k : g.dk) + row * a.K;
  float* dv = floats(j < a.T ? g.dprior_v : g.dv) + row * a.V;
  const int64_t* begin = a.begin + b * a.L;
  const int64_t lo = std::max<int64_t>(0, j - a.T);
  const int64_t hi = std::upper_bound(begin, begin + a.L, j + keys.count - 1) - begin;
  if (lo < hi) return gradient_task<false>(g, b, h, keys, lo, hi, dk, dv);
  for (int64_t r = 0; r < keys.count; ++r) {  // keys that nobody sees
    std::fill_n(dk + r * a.H * a.K, a.K, 0.0f);
    std::fill_n(dv + r * a.H * a.V, a.V, 0.0f);
  }
}

inline int64_t tile_size() {
  return kTile;
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(forward_task);
HWY_EXPORT(delta_task);
HWY_EXPORT(query_gradient_task);
HWY_EXPORT(key_gradient_task);
HWY_EXPORT(tile_size);
HWY_EXPORT(has_pairs);

/// Starting threads costs microseconds, far more where other programs hold the cores; one core does 2^19 multiply-adds
/// in about 20. Below that one thread does it all.
constexpr int64_t kWorthThreads = 1 << 19;

template <class Task>
void for_tasks(const ChunkAttentionArgs& a, int64_t tasks, const Task& task) {
  int64_t pairs = 0;
  for (int64_t b = 0; b < a.B; ++b)
    for (int64_t i = 0; i < a.L; ++i) pairs += a.T + i + 1 - a.begin[b * a.L + i];
  if (pairs * a.H * (a.K + a.V) >= kWorthThreads) return parallel_for(tasks, task);
  for (int64_t i = 0; i < tasks; ++i) task(i);
}

}  // namespace

bool chunk_attention_has_pairs() {
  return HWY_DYNAMIC_DISPATCH(has_pairs)();
}

void chunk_attention_forward_cpu(const ChunkAttentionArgs& args) {
  const int64_t tile = HWY_DYNAMIC_DISPATCH(tile_size)(), tiles = (args.L + tile - 1) / tile, heads = args.B * args.H;
  for_tasks(args, heads * tiles, [&](int64_t task) {
    const int64_t head = task % heads, last_first = tiles - 1 - task / heads;  // late queries see most: they go first
    HWY_DYNAMIC_DISPATCH(forward_task)(args, head / args.H, head % args.H, last_first * tile);
  });
}

void chunk_attention_backward_cpu(const ChunkAttentionGradArgs& args) {
  const ChunkAttentionArgs& a = args.forward;
  const int64_t tile = HWY_DYNAMIC_DISPATCH(tile_size)(), heads = a.B * a.H;
  const int64_t prior_tiles = (a.T + tile - 1) / tile, tiles = (a.L + tile - 1) / tile;
  for_tasks(a, heads * tiles, [&](int64_t task) {
    HWY_DYNAMIC_DISPATCH(delta_task)(args, task % heads / a.H, task % heads % a.H, task / heads * tile);
  });
  for_tasks(a, heads * (prior_tiles + 2 * tiles), [&](int64_t task) {
    const int64_t b = task % heads / a.H, h = task % heads % a.H, t = task / heads;
    if (t < prior_tiles)
      HWY_DYNAMIC_DISPATCH(key_gradient_task)(args, b, h, t * tile);
    else if (t < prior_tiles + tiles)
      HWY_DYNAMIC_DISPATCH(key_gradient_task)(args, b, h, a.T + (t - prior_tiles) * tile);
    else  // again late queries first
      HWY_DYNAMIC_DISPATCH(query_gradient_task)(args, b, h, (prior_tiles + 2 * tiles - 1 - t) * tile);
  });
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
