// Matrix products of attention tiles, one register-blocked kernel under all of them. Included once per SIMD target.
//
// A score tile S has one row per position of the inner (streamed) side and one column per position of the outer side,
// whatever of the two is queries. Then only the outer side is ever transposed, once per tile and not once per pair of
// tiles, and both products read the inner side as it lies in memory:
//
//   score_product     S[r, c]  = Σ_k x_inner[r, k] · x_outer[c, k]     (A broadcast, B = packed outer side)
//   output_product    C[c, n]  = β_c C[c, n] + Σ_r S[r, c] · B[r, n]   (A = S read down its columns, B = inner side)
//
// An element of a factor is 32 bits along the axis that is summed over: a float (Singles), or two bfloat16 (Pairs),
// whose products are added to the same float. Where a processor has the instruction, that is twice as much work at a
// time.
#if defined(MEGALODON_OPS_TILE_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MEGALODON_OPS_TILE_MATMUL_INL_H_
#undef MEGALODON_OPS_TILE_MATMUL_INL_H_
#else
#define MEGALODON_OPS_TILE_MATMUL_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "hwy/highway.h"
#include "ops/number-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using Vec = hn::Vec<D>;
constexpr D d;
constexpr int64_t kLanes = hn::MaxLanes(D());

// 6 x 4 accumulators, 4 vectors of B and a broadcast fill 29 of the 32 registers of AVX-512 and A64; 6 x 2 fill 15 of
// the 16 of AVX2. Either way 24 (12) multiply-adds per 10 (8) loads, so the multiply-add units are the limit.
constexpr int64_t kRows = 6;
constexpr int64_t kVectors = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 || HWY_TARGET == HWY_SCALAR ? 4 : 2;
constexpr int64_t kPanel = kVectors * kLanes;
constexpr int64_t kDepth = 128;  // rows of a panel used at a time: 128 x 64 floats are 32 KiB, which stay in L1
constexpr int64_t kTile = 96;    // edge of a score tile: 36 KiB; a multiple of kRows and of every vector length
static_assert(kTile % kRows == 0 && kTile % kLanes == 0);
static_assert(kPanel % 4 == 0);  // columns are packed four at a time

constexpr std::array<float, kTile> kOnes = [] {
  std::array<float, kTile> ones{};
  for (float& x : ones) x = 1;
  return ones;
}();

/// For each row r of a score tile the columns lo[r] <= c < hi[r] that it sees; both ends never fall with r.
struct VisibleColumns {
  int64_t lo[kTile], hi[kTile];
};

constexpr int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

struct Singles {
  static constexpr bool kPairs = false;
  static HWY_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return hn::MulAdd(a, b, sum); }
};

#undef MEGALODON_TARGET_HAS_PAIRS
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#define MEGALODON_TARGET_HAS_PAIRS 1
#else
#define MEGALODON_TARGET_HAS_PAIRS 0
#endif

struct Pairs {
  static constexpr bool kPairs = true;
#if MEGALODON_TARGET_HAS_PAIRS
  /// Highway's target has AVX-512 but not its bfloat16 instructions, so the compiler does not know this one.
  static HWY_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
  }
#else
  static HWY_INLINE Vec multiply_add(Vec, Vec, Vec sum) {
    return sum;
  }  // never called: has_pairs()
#endif
};

/// Whether Pairs work on this target and processor.
inline bool has_pairs() {
#if MEGALODON_TARGET_HAS_PAIRS
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

/// C = β C + A B for M rows and N vectors; β null: C = A B, whatever C held. Element (m, k) of A is a[m · a_row + k ·
/// a_step]. (A struct for the three would go through memory at every call, and its reload stalls.)
template <class P, int M, int N>
void multiply_registers(const float* HWY_RESTRICT a, int64_t a_row, int64_t a_step, const float* HWY_RESTRICT b,
                        int64_t b_row, int64_t depth, float* HWY_RESTRICT c, int64_t c_row,
                        const float* HWY_RESTRICT beta) {
  Vec sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
      sum[m][n] = beta ? hn::Mul(hn::Set(d, beta[m]), hn::LoadU(d, c + m * c_row + n * kLanes)) : hn::Zero(d);
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += b_row) {
    Vec row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) row[n] = hn::LoadU(d, b + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec x = hn::Set(d, a[m * a_row]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[m][n] = P::multiply_add(x, row[n], sum[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) hn::StoreU(sum[m][n], d, c + m * c_row + n * kLanes);
}

using MultiplyRegisters = void (*)(const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t,
                                   const float*);
template <class P, size_t... I>
constexpr std::array<MultiplyRegisters, sizeof...(I)> all_sizes(std::index_sequence<I...>) {
  return {multiply_registers<P, I / kVectors + 1, I % kVectors + 1>...};
}
template <class P>
constexpr auto kMultiplyRegisters = all_sizes<P>(std::make_index_sequence<kRows * kVectors>());

/// Copies `size` floats and fills the last vector up with zeros. By hand and without
/// HWY_RESTRICT, or GCC makes it a memcpy or "rep movs", whose start costs more than these few vectors.
inline void copy_padded(const float* from, int64_t size, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) hn::StoreU(hn::LoadU(d, from + i), d, to + i);
  if (i == size) return;
  hn::StoreU(hn::Zero(d), d, to + i);
  for (; i < size; ++i) to[i] = from[i];
}

/// The same for any rows <= kRows and columns <= kPanel. B must be readable up to a whole vector; C need not be.
template <class P>
void multiply_block(int64_t rows, int64_t columns, const float* a, int64_t a_row, int64_t a_step, const float* b,
                    int64_t b_row, int64_t depth, float* c, int64_t c_row, const float* beta) {
  const MultiplyRegisters multiply = kMultiplyRegisters<P>[(rows - 1) * kVectors + (columns + kLanes - 1) / kLanes - 1];
  if (columns % kLanes == 0) return multiply(a, a_row, a_step, b, b_row, depth, c, c_row, beta);
  HWY_ALIGN float block[kRows * kPanel];
  for (int64_t m = 0; m < rows && beta; ++m) copy_padded(c + m * c_row, columns, block + m * kPanel);
  multiply(a, a_row, a_step, b, b_row, depth, block, kPanel, beta);
  for (int64_t m = 0; m < rows; ++m) std::copy_n(block + m * kPanel, columns, c + m * c_row);
}

/// Floats that pack_transposed() writes.
constexpr int64_t packed_size(int64_t columns, int64_t depth) {
  return round_up(columns, kPanel) * depth;
}

/// packed[panel][k][column in panel] = scale · x[column · x_row + k]; columns past the last are zero. Of pairs scale
/// is 1.
template <class P>
void pack_transposed(const float* x, int64_t x_row, int64_t columns, int64_t depth, float scale, float* packed) {
#if HWY_TARGET != HWY_SCALAR  // has no shuffles
  const hn::CappedTag<float, 4> d4;
  const auto factor = hn::Set(d4, scale);
  const auto element = [&](const float* from) HWY_ATTR {
    const auto x = hn::LoadU(d4, from);
    if constexpr (P::kPairs) return x;
    return hn::Mul(factor, x);
  };
#endif
  for (int64_t c = 0; c < round_up(columns, kPanel); c += 4) {
    float* to = packed + c / kPanel * kPanel * depth + c % kPanel;
    int64_t k = 0;
#if HWY_TARGET != HWY_SCALAR
    for (; c + 4 <= columns && k + 4 <= depth; k += 4) {
      const float* from = x + c * x_row + k;
      const auto a = element(from), b = element(from + x_row);
      const auto e = element(from + 2 * x_row), f = element(from + 3 * x_row);
      const auto ab0 = hn::InterleaveLower(d4, a, b), ef0 = hn::InterleaveLower(d4, e, f);
      const auto ab1 = hn::InterleaveUpper(d4, a, b), ef1 = hn::InterleaveUpper(d4, e, f);
      hn::StoreU(hn::ConcatLowerLower(d4, ef0, ab0), d4, to + k * kPanel);
      hn::StoreU(hn::ConcatUpperUpper(d4, ef0, ab0), d4, to + (k + 1) * kPanel);
      hn::StoreU(hn::ConcatLowerLower(d4, ef1, ab1), d4, to + (k + 2) * kPanel);
      hn::StoreU(hn::ConcatUpperUpper(d4, ef1, ab1), d4, to + (k + 3) * kPanel);
    }
#endif
    for (; k < depth; ++k)
      for (int64_t i = 0; i < 4; ++i) {
        const float one = c + i < columns ? x[(c + i) * x_row + k] : 0.0f;
        to[k * kPanel + i] = P::kPairs ? one : scale * one;
      }
  }
}

/// S = A · packed, only where a row block sees something; the rest of S is left as it is.
template <class P>
void score_product(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_row, const float* packed,
                   const VisibleColumns& visible, float* s) {
  for (int64_t c = 0; c < columns; c += kPanel)
    for (int64_t k = 0; k < depth; k += kDepth)
      for (int64_t r = 0; r < rows; r += kRows) {
        const int64_t count = std::min(kRows, rows - r);
        const int64_t lo = std::max<int64_t>(0, visible.lo[r] - c) / kLanes * kLanes;
        const int64_t hi = round_up(std::min(kPanel, visible.hi[r + count - 1] - c), kLanes);
        if (lo >= hi) continue;
        multiply_block<P>(count, hi - lo, a + r * a_row + k, a_row, 1, packed + c * depth + k * kPanel + lo, kPanel,
                          std::min(kDepth, depth - k), s + r * kTile + c + lo, kTile, k ? kOnes.data() : nullptr);
      }
}

/// Σ x_k z_k. Four chains hide the latency of the additions.
inline float dot(int64_t size, const float* HWY_RESTRICT x, const float* HWY_RESTRICT z) {
  Vec sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t k = 0;
  for (; k + 4 * kLanes <= size; k += 4 * kLanes)
    for (int64_t i = 0; i < 4; ++i)
      sum[i] = hn::MulAdd(hn::LoadU(d, x + k + i * kLanes), hn::LoadU(d, z + k + i * kLanes), sum[i]);
  for (; k + kLanes <= size; k += kLanes) sum[0] = hn::MulAdd(hn::LoadU(d, x + k), hn::LoadU(d, z + k), sum[0]);
  float rest = 0;
  for (; k < size; ++k) rest += x[k] * z[k];
  return rest + hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
}

/// score_product for a handful of columns (decoding): dot products read A once, and nothing is packed.
inline void score_product_few(int64_t rows, int64_t depth, const float* a, int64_t a_row, const float* x, int64_t x_row,
                              float scale, const VisibleColumns& visible, float* s) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = visible.lo[r]; c < visible.hi[r]; ++c)
      s[r * kTile + c] = scale * dot(depth, a + r * a_row, x + c * x_row);
}

/// Two floats of one column, rounded to bfloat16, as a pair.
inline Vec pair(Vec low, Vec high) {
  const hn::RebindToUnsigned<D> bits;
  const auto upper = hn::And(round_upper_half(d, high), hn::Set(bits, 0xffff0000u));
  return hn::BitCast(d, hn::Or(upper, hn::ShiftRight<16>(round_upper_half(d, low))));
}

/// pairs[r][c] = (s[2r][c], s[2r + 1][c]): a score tile as the factor of an output product.
inline void pair_rows(int64_t rows, int64_t columns, const float* s, float* pairs) {
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t c = 0; c < columns; c += kLanes) {
      const float* from = s + r * kTile + c;
      const Vec next = r + 1 < rows ? hn::Load(d, from + kTile) : hn::Zero(d);
      hn::Store(pair(hn::Load(d, from), next), d, pairs + r / 2 * kTile + c);
    }
}

/// to[c] = (low[c], high[c]) of rows of bfloat16; the last vector is filled up with zeros.
inline void interleave_padded(const uint16_t* low, const uint16_t* high, int64_t size, float* to) {
  const hn::RebindToUnsigned<D> bits;
  const hn::Rebind<uint16_t, D> half;
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const auto lower = hn::PromoteTo(bits, hn::LoadU(half, low + i));
    const auto upper = hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(half, high + i)));
    hn::StoreU(hn::BitCast(d, hn::Or(lower, upper)), d, to + i);
  }
  if (i == size) return;
  hn::StoreU(hn::Zero(d), d, to + i);
  for (; i < size; ++i) {
    const uint32_t both = low[i] | static_cast<uint32_t>(high[i]) << 16;
    std::memcpy(to + i, &both, sizeof(both));
  }
}

/// Copies columns e .. e + width of B's rows: single rows, or rows interleaved two by two, the last with zeros.
template <class P>
void pack_panel(int64_t rows, int64_t e, int64_t width, const float* b, int64_t b_row, float* packed) {
  if constexpr (P::kPairs) {
    static constexpr uint16_t kZeros[kPanel] = {};
    for (int64_t r = 0; r < rows; r += 2) {
      const auto* row = reinterpret_cast<const uint16_t*>(b + r * b_row) + e;
      interleave_padded(row, r + 1 < rows ? row + 2 * b_row : kZeros, width, packed + r / 2 * kPanel);
    }
  } else {
    for (int64_t r = 0; r < rows; ++r) copy_padded(b + r * b_row + e, width, packed + r * kPanel);
  }
}

/// C[columns x n] = β C + Sᵀ B with one β per column of S (null: C = Sᵀ B). Between the rows that a block of kRows
/// columns sees, S must be zero where a column sees nothing. Of pairs, S is what pair_rows() made.
template <class P>
void output_product(int64_t rows, int64_t columns, int64_t n, const float* s, const float* b, int64_t b_row,
                    const VisibleColumns& visible, float* c, int64_t c_row, const float* beta) {
  constexpr int64_t kStep = P::kPairs ? 2 : 1;  // rows of S in an element
  HWY_ALIGN float packed[kTile * kPanel];
  int64_t first[kTile / kRows], depth[kTile / kRows];  // in elements, of the rows that a block of columns sees
  for (int64_t at = 0; at < columns; at += kRows) {
    const int64_t last_column = std::min(columns, at + kRows) - 1;
    first[at / kRows] = (std::upper_bound(visible.hi, visible.hi + rows, at) - visible.hi) / kStep;
    const int64_t end = std::upper_bound(visible.lo, visible.lo + rows, last_column) - visible.lo;
    depth[at / kRows] = std::max<int64_t>(0, (end + kStep - 1) / kStep - first[at / kRows]);
  }
  for (int64_t e = 0; e < n; e += kPanel) {
    const int64_t width = std::min(kPanel, n - e);
    const float* panel = b + e;
    int64_t panel_row = b_row;
    if (P::kPairs || columns > kRows || width % kLanes != 0) {  // far strides miss L1 and the TLB once per use
      pack_panel<P>(rows, e, width, b, b_row, packed);
      panel = packed;
      panel_row = kPanel;
    }
    for (int64_t at = 0; at < columns; at += kRows) {
      const int64_t from = first[at / kRows];
      multiply_block<P>(std::min(kRows, columns - at), width, s + from * kTile + at, 1, kTile, panel + from * panel_row,
                        panel_row, depth[at / kRows], c + at * c_row + e, c_row, beta ? beta + at : nullptr);
    }
  }
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
