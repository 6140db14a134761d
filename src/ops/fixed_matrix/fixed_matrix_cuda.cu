// Products with few rows of x, as a decoder's, read W once, straight from its stored bytes: the speed of memory is the
// bound. A block of threads has a band of 16 rows of W, whose inputs its eight warps share. A lane has four
// neighbouring rows, as the words of four rows are one load of 16 bytes, and of them 32 inputs of q8 or q4 at a time
// (8 of float32, 16 of bfloat16). Four lanes side by side have the same inputs and all 16 rows: 64 bytes in a row, all
// of which are used. All that a lane reads of one piece, 80 to 144 bytes, is on its way at once, and of a matrix of
// 2,048 x 2,048 in q4 one piece is all that it ever reads. Sums are brought together over lanes, then over warps, always
// in one order.
//
// q8 and q4 are multiplied as the CPU does: x is made integers of 8 bits by a kernel of its own, four products of
// integers are one instruction, and the sum of a group of 32, which is exact, is scaled by s and the scale of x.
//
// Up to eight rows of x are multiplied by one reading of W; the blocks of threads for further rows are neighbours of
// those for the first, and find W in the cache. More than kFewRows rows are bound by arithmetic: W is restored in tiles
// that stay in the second level cache, and multiplied by the library.
//
// Predicted, not measured yet on a GPU. A token of mega1.3B, 1.27 billion weights, at the 3.35 TB/s of an H100:
//
//              bytes a weight   read a token   takes
//   float32    4                5.1 GB         1.5 ms
//   bfloat16   2                2.5 GB         0.76 ms
//   q8         1.0625           1.4 GB         0.40 ms
//   q4         0.625            0.80 GB        0.24 ms
//
// In a cycle memory brings 23 weights of q4 to a multiprocessor; by its instructions it could take 120 for one row of
// x, 75 for two, 23 for eight. A matrix of 2,048 x 2,048 in q4 takes less than a microsecond, no more than the start of
// a kernel: for single products the time goes there.
#include <algorithm>
#include <type_traits>

#include "ops/cuda_kernel.cuh"
#include "ops/fixed_matrix/fixed_matrix_kernel.h"
#include "ops/linear/cublas_product.h"

namespace megalodon::ops {
namespace {

using namespace cuda;

constexpr const char* kName = "fixed_matrix";
constexpr int kWarps = 8, kThreads = kWarps * kWarp;

constexpr bool in_codes(FixedType type) { return type == FixedType::kQ8 || type == FixedType::kQ4; }

/// How the words of a type lie in its records: behind the words of s and m, which float32 and bfloat16 have not, words
/// of one row each, those of all rows of a block beside each other.
template <FixedType kType>
struct Words {
  static constexpr FixedLayout kLayout = fixed_layout(kType);
  static constexpr int kRows = static_cast<int>(kLayout.block_rows), kInputs = static_cast<int>(kLayout.record_inputs);
  static constexpr int kRowBytes = kRows * 4, kHeader = in_codes(kType) ? kRowBytes : 0;
  static constexpr int kCount = static_cast<int>(kLayout.record_bytes - kHeader) / kRowBytes;  // of a row
  static_assert(kHeader + kCount * kRowBytes == kLayout.record_bytes);
};

// ---- x --------------------------------------------------------------------------------------------------------------

/// Rows of x as long as those of W's records, filled up with zeros.
struct PreparedX {
  const void* numbers;   // [M,stride]: float32 or bfloat16, as W; int8 for q8 and q4
  const float2* scales;  // [M,stride/32], of integers: the scale of a group; the sum of its integers, times that
  int64_t stride;
};

/// Numbers of x next to a W of that type.
template <FixedType kType>
using NumberOfX = std::conditional_t<in_codes(kType), int8_t,
                                     std::conditional_t<kType == FixedType::kBfloat16, __nv_bfloat16, float>>;

/// A thread per number of `to` [M,stride], blockIdx.x goes along M.
template <class X>
__global__ void __launch_bounds__(kThreads) pad_kernel(const float* x, int64_t I, int64_t stride, X* to) {
  const int64_t m = blockIdx.x, i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (i < stride) to[m * stride + i] = from_float<X>(i < I ? x[m * I + i] : 0.0f);
}

/// A warp per group of 32 inputs, blockIdx.x goes along M. The integers and scales of fixed_matrix_cpu.cc, to the bit:
/// products and quotients are rounded one by one.
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const float* x_data, int64_t I, int64_t stride, int8_t* codes, float2* scales) {
  static_assert(kFixedGroup == kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t m = blockIdx.x, group = int64_t{blockIdx.y} * kWarps + warp, i = group * kFixedGroup + lane;
  if (i >= stride) return;  // the whole warp
  const float x = i < I ? x_data[m * I + i] : 0.0f, not_finite = x - x;  // the latter 0 or NaN
  // Below this the reciprocal would be infinite; such numbers lose digits instead.
  const float largest = fmaxf(warp_max(fabsf(x)), 1e-35f);
  const int code = not_finite == 0 ? __float2int_rn(x * (127.0f / largest)) : 0;
  codes[m * stride + i] = static_cast<int8_t>(code);
  const int total = warp_sum(code);
  const float scale = largest / 127.0f + warp_sum(not_finite);
  if (lane == 0) scales[m * (stride / kFixedGroup) + group] = {scale, scale * static_cast<float>(total)};
}

// ---- few rows of x --------------------------------------------------------------------------------------------------

constexpr int kBand = 16;                  // rows of W of a block of threads: a block of q8 and q4
constexpr int kLaneRows = 4;               // of a lane
constexpr int kLanes = kBand / kLaneRows;  // that share a piece
constexpr int kPieces = kWarp / kLanes;    // of a warp at a time

/// What a lane reads at once: some inputs of its rows.
template <FixedType kType>
struct Piece {
  static constexpr int kWords = kType == FixedType::kQ4 ? 4 : 8;  // of a row
  static constexpr int kPerRecord = Words<kType>::kCount / kWords, kInputs = Words<kType>::kInputs / kPerRecord;
  static_assert(!in_codes(kType) || kInputs == kFixedGroup);
  uint4 words[kWords];
  uint4 scales;  // of q8 and q4
  bool second;   // of a record, whose scales are in the upper halves
};

__device__ __forceinline__ uint4 load_words(const uint8_t* from) {
  return __ldcg(reinterpret_cast<const uint4*>(from));  // read once: x needs the first level cache
}

/// `of_lane` is the first word of the lane's rows in the first record of their block.
template <FixedType kType>
__device__ __forceinline__ Piece<kType> load_piece(const uint8_t* of_lane, int64_t index) {
  using P = Piece<kType>;
  using W = Words<kType>;
  const uint8_t* record = of_lane + index / P::kPerRecord * W::kLayout.record_bytes;
  P piece;
  piece.second = index % P::kPerRecord != 0;
  if constexpr (in_codes(kType)) piece.scales = load_words(record);
  const uint8_t* words = record + W::kHeader + (piece.second ? P::kWords * W::kRowBytes : 0);
#pragma unroll
  for (int k = 0; k < P::kWords; ++k) piece.words[k] = load_words(words + k * W::kRowBytes);
  return piece;
}

__device__ __forceinline__ uint32_t of_row(const uint4& words, int row) {
  return row == 0 ? words.x : row == 1 ? words.y : row == 2 ? words.z : words.w;
}

/// Adds the products with one row of x, which begins at x.
__device__ __forceinline__ void add_products(const Piece<FixedType::kFloat32>& w, const float* x, float2,
                                             float (&sums)[kLaneRows]) {
#pragma unroll
  for (int k = 0; k < 8; k += 4) {
    const float4 four = load4(x + k);
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      sums[r] = fmaf(__uint_as_float(of_row(w.words[k], r)), four.x, sums[r]);
      sums[r] = fmaf(__uint_as_float(of_row(w.words[k + 1], r)), four.y, sums[r]);
      sums[r] = fmaf(__uint_as_float(of_row(w.words[k + 2], r)), four.z, sums[r]);
      sums[r] = fmaf(__uint_as_float(of_row(w.words[k + 3], r)), four.w, sums[r]);
    }
  }
}

__device__ __forceinline__ void add_products(const Piece<FixedType::kBfloat16>& w, const __nv_bfloat16* x, float2,
                                             float (&sums)[kLaneRows]) {
#pragma unroll
  for (int k = 0; k < 8; k += 2) {
    const float4 four = load4(x + 2 * k);
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      const uint32_t first = of_row(w.words[k], r), second = of_row(w.words[k + 1], r);
      sums[r] = fmaf(lower_half(first), four.x, sums[r]);
      sums[r] = fmaf(upper_half(first), four.y, sums[r]);
      sums[r] = fmaf(lower_half(second), four.z, sums[r]);
      sums[r] = fmaf(upper_half(second), four.w, sums[r]);
    }
  }
}

/// Of integers: of_x is the group's scale, and the sum of its integers times that.
template <FixedType kType>
__device__ __forceinline__ void add_products(const Piece<kType>& w, const int8_t* x, float2 of_x,
                                             float (&sums)[kLaneRows]) {
  const uint4 first = __ldg(reinterpret_cast<const uint4*>(x)), second = __ldg(reinterpret_cast<const uint4*>(x + 16));
#pragma unroll
  for (int r = 0; r < kLaneRows; ++r) {
    const auto add = [](uint32_t codes, uint32_t integers, int sum) {
      return __dp4a(static_cast<int>(codes), static_cast<int>(integers), sum);
    };
    int sum = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t word = of_row(w.words[k], r);
      if constexpr (kType == FixedType::kQ8) {  // codes are 128 too large: without that they have a sign
        sum = add(word ^ 0x80808080u, of_row(first, k), sum);
        sum = add(of_row(w.words[k + 4], r) ^ 0x80808080u, of_row(second, k), sum);
      } else {
        sum = add(word & 0x0f0f0f0fu, of_row(first, k), sum);
        sum = add(word >> 4 & 0x0f0f0f0fu, of_row(second, k), sum);
      }
    }
    const uint32_t scales = of_row(w.scales, r);
    const bool upper = kType == FixedType::kQ4 || w.second;
    sums[r] = fmaf(upper ? upper_half(scales) : lower_half(scales), static_cast<float>(sum) * of_x.x, sums[r]);
    if constexpr (kType == FixedType::kQ4) sums[r] = fmaf(lower_half(scales), of_x.y, sums[r]);
  }
}

/// kRows rows of x at a time; what is computed beyond the last is that one again, and forgotten. Blocks of threads for
/// all rows of x and one band follow each other.
template <FixedType kType, int kRows>
__global__ void __launch_bounds__(kThreads, 2) few_rows_kernel(const FixedProduct p, const PreparedX x) {
  using P = Piece<kType>;
  using W = Words<kType>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const auto passes = static_cast<unsigned>(divide_up(p.M, kRows));
  const int64_t first_m = int64_t{blockIdx.x % passes} * kRows, first_o = int64_t{blockIdx.x / passes} * kBand;
  const int64_t records = divide_up(p.w.I, W::kInputs);
  const uint8_t* of_lane = p.w.bytes + first_o / W::kRows * records * W::kLayout.record_bytes +
                           (first_o % W::kRows + lane % kLanes * kLaneRows) * 4;
  float sums[kRows][kLaneRows] = {};
  for (int64_t piece = warp * kPieces + lane / kLanes; piece < records * P::kPerRecord; piece += kWarps * kPieces) {
    const P w = load_piece<kType>(of_lane, piece);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const int64_t row = first_m + m < p.M ? first_m + m : p.M - 1;
      float2 of_x = {};
      if constexpr (in_codes(kType)) of_x = x.scales[row * (x.stride / kFixedGroup) + piece];
      add_products(w, static_cast<const NumberOfX<kType>*>(x.numbers) + row * x.stride + piece * P::kInputs, of_x,
                   sums[m]);
    }
  }

  __shared__ float of_warps[kWarps][kRows][kBand];
#pragma unroll
  for (int m = 0; m < kRows; ++m)
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      for (int distance = kLanes; distance < kWarp; distance *= 2)
        sums[m][r] += __shfl_xor_sync(kAllLanes, sums[m][r], distance);
      if (lane < kLanes) of_warps[warp][m][lane * kLaneRows + r] = sums[m][r];
    }
  __syncthreads();
  static_assert(kRows * kBand <= kThreads, "a thread has one of the results at most");
  const int of_rows = static_cast<int>(threadIdx.x) / kBand, of_band = static_cast<int>(threadIdx.x) % kBand;
  const int64_t m = first_m + of_rows, o = first_o + of_band;
  if (of_rows >= kRows || m >= p.M || o >= p.w.O) return;
  float y = 0;
  for (int w = 0; w < kWarps; ++w) y += of_warps[w][of_rows][of_band];
  if (p.bias != nullptr) y += p.bias[o];
  if (p.addend != nullptr) y += p.addend[m * p.w.O + o];
  p.y[m * p.w.O + o] = y;
}

// ---- many rows of x -------------------------------------------------------------------------------------------------

/// Inputs 4 `four` to 4 `four` + 3 of a record's row.
template <FixedType kType>
__device__ __forceinline__ float4 restore_four(const uint8_t* record, int row, int four) {
  using W = Words<kType>;
  const auto* of_record = reinterpret_cast<const uint32_t*>(record) + row;
  const auto word = [&](int k) { return __ldg(of_record + W::kHeader / 4 + k * W::kRows); };
  if constexpr (kType == FixedType::kFloat32) {
    return {__uint_as_float(word(4 * four)), __uint_as_float(word(4 * four + 1)), __uint_as_float(word(4 * four + 2)),
            __uint_as_float(word(4 * four + 3))};
  } else if constexpr (kType == FixedType::kBfloat16) {
    const uint32_t first = word(2 * four), second = word(2 * four + 1);
    return {lower_half(first), upper_half(first), lower_half(second), upper_half(second)};
  } else {
    const uint32_t scales = __ldg(of_record);
    const auto number = [&](uint32_t codes, int i) { return static_cast<float>(codes >> 8 * i & 0xffu); };
    if constexpr (kType == FixedType::kQ8) {
      const uint32_t codes = word(four);
      const float s = four < W::kCount / 2 ? lower_half(scales) : upper_half(scales);
      return {(number(codes, 0) - 128) * s, (number(codes, 1) - 128) * s, (number(codes, 2) - 128) * s,
              (number(codes, 3) - 128) * s};
    } else {
      const uint32_t codes = word(four % W::kCount) >> (four < W::kCount ? 0 : 4) & 0x0f0f0f0fu;
      const float m = lower_half(scales), s = upper_half(scales);
      return {fmaf(number(codes, 0), s, m), fmaf(number(codes, 1), s, m), fmaf(number(codes, 2), s, m),
              fmaf(number(codes, 3), s, m)};
    }
  }
}

/// Whole blocks of W, of which the first begins at `bytes`, to rows as long as their records. A thread per four inputs;
/// those of a record follow each other, row by row: they read it from the first level cache, and write whole rows.
template <FixedType kType, class T>
__global__ void __launch_bounds__(kThreads)
    restore_kernel(const uint8_t* bytes, unsigned blocks, unsigned records, T* to) {
  using W = Words<kType>;
  constexpr int kFours = W::kInputs / 4, kThreadsOfRecord = W::kRows * kFours;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const auto index = static_cast<unsigned>(thread / kThreadsOfRecord);  // of the record
  if (index >= blocks * records) return;
  const int within = static_cast<int>(thread % kThreadsOfRecord), row = within / kFours, four = within % kFours;
  const float4 w = restore_four<kType>(bytes + int64_t{index} * W::kLayout.record_bytes, row, four);
  const int64_t o = int64_t{index / records} * W::kRows + row, i = int64_t{index % records} * W::kInputs + 4 * four;
  store4(to + o * records * W::kInputs + i, w);
}

// ---------------------------------------------------------------------------------------------------------------------

/// Calls run(std::integral_constant) with the type.
template <class Run>
void with_fixed_type(FixedType type, const Run& run) {
  switch (type) {
    case FixedType::kFloat32:
      return run(std::integral_constant<FixedType, FixedType::kFloat32>{});
    case FixedType::kBfloat16:
      return run(std::integral_constant<FixedType, FixedType::kBfloat16>{});
    case FixedType::kQ8:
      return run(std::integral_constant<FixedType, FixedType::kQ8>{});
    case FixedType::kQ4:
      return run(std::integral_constant<FixedType, FixedType::kQ4>{});
  }
}

int64_t padded_inputs(const FixedView& w) { return w.records() * fixed_layout(w.type).record_inputs; }

/// For a kernel of which blockIdx.x goes along M.
LaunchShape along_rows(const FixedProduct& p, int64_t count, int64_t of_block) {
  return {dim3(static_cast<unsigned>(p.M), static_cast<unsigned>(divide_up(count, of_block))), dim3(kThreads)};
}

/// Numbers of x as X: x itself where that is as it should be.
template <class X>
const X* pad(const FixedProduct& p, CudaQueue& queue) {
  const int64_t stride = padded_inputs(p.w);
  if constexpr (std::is_same_v<X, float>)
    if (stride == p.w.I && in_fours(p.x, stride)) return p.x;
  X* numbers = queue.scratch_of<X>(p.M * stride);
  launch(kName, queue, along_rows(p, stride, kThreads), pad_kernel<X>, p.x, p.w.I, stride, numbers);
  return numbers;
}

template <FixedType kType>
PreparedX prepare(const FixedProduct& p, CudaQueue& queue) {
  const int64_t stride = padded_inputs(p.w);
  if constexpr (in_codes(kType)) {
    const int64_t groups = stride / kFixedGroup;
    auto* codes = queue.scratch_of<int8_t>(p.M * stride);
    auto* scales = queue.scratch_of<float2>(p.M * groups);
    launch(kName, queue, along_rows(p, groups, kWarps), quantize_kernel, p.x, p.w.I, stride, codes, scales);
    return {codes, scales, stride};
  } else {
    return {pad<NumberOfX<kType>>(p, queue), nullptr, stride};
  }
}

template <FixedType kType, int kRows>
void multiply_few_rows(const FixedProduct& p, const PreparedX& x, CudaQueue& queue) {
  if constexpr (kRows > 1)
    if (p.M <= kRows / 2) return multiply_few_rows<kType, kRows / 2>(p, x, queue);
  const int64_t blocks = divide_up(p.w.O, kBand) * divide_up(p.M, kRows);
  launch(kName, queue, LaunchShape{dim3(static_cast<unsigned>(blocks)), dim3(kThreads)}, few_rows_kernel<kType, kRows>,
         p, x);
}

template <class X>
constexpr NumberType number_type() {
  return std::is_same_v<X, float> ? NumberType::kFloat32 : NumberType::kBfloat16;
}

/// x and W as X. A tile has as many whole blocks of W as stay in the second level cache, with what it is multiplied by.
template <FixedType kType, class X>
void multiply_many_rows(const FixedProduct& p, CudaQueue& queue) {
  using W = Words<kType>;
  constexpr int64_t kTileBytes = int64_t{16} << 20;
  const int64_t stride = padded_inputs(p.w), block_bytes = W::kRows * stride * static_cast<int64_t>(sizeof(X));
  const int64_t most = std::min(std::max(kTileBytes / block_bytes, int64_t{1}), p.w.blocks());
  const X* x = pad<X>(p, queue);
  X* tile = queue.scratch_of<X>(most * W::kRows * stride);
  void* workspace = queue.scratch(kCudaProductWorkspace);
  for (int64_t first = 0; first < p.w.blocks(); first += most) {
    const auto blocks = static_cast<unsigned>(std::min(most, p.w.blocks() - first));
    const auto records = static_cast<unsigned>(p.w.records());
    const int64_t threads = blocks * W::kRows * stride / 4;
    launch(kName, queue, LaunchShape{dim3(static_cast<unsigned>(divide_up(threads, kThreads))), dim3(kThreads)},
           restore_kernel<kType, X>, p.w.bytes + first * p.w.block_bytes(), blocks, records, tile);
    const int64_t o = first * W::kRows;
    CudaProduct product;
    product.M = p.M, product.N = std::min(blocks * int64_t{W::kRows}, p.w.O - o), product.K = stride;
    product.a = {x, number_type<X>(), stride};
    product.b = {tile, number_type<X>(), stride, /*transposed=*/true};
    product.d = p.y + o, product.d_stride = p.w.O;
    if (p.addend != nullptr) product.c = p.addend + o, product.c_stride = p.w.O, product.beta = 1;
    if (p.bias != nullptr) product.bias = p.bias + o;
    cuda_product(product, queue, workspace);
  }
}

}  // namespace

void fixed_product_cuda(const FixedProduct& product, CudaQueue& queue) {
  if (product.M == 0) return;
  with_fixed_type(product.w.type, [&](auto type) {
    constexpr FixedType kType = decltype(type)::value;
    constexpr bool kWide = kType == FixedType::kFloat32;
    if (product.M > kFewRows)
      multiply_many_rows<kType, std::conditional_t<kWide, float, __nv_bfloat16>>(product, queue);
    else
      multiply_few_rows<kType, 8>(product, prepare<kType>(product, queue), queue);
  });
}

}  // namespace megalodon::ops
