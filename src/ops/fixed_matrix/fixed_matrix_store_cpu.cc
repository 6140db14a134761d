// From float32 or bfloat16 to the stored bytes and back, once per matrix; what products read is decoded by
// fixed_matrix_cpu.cc. No vector code: what takes time is memory, which is read and written in long runs.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/parallel.h"
#include "ops/fixed_matrix/fixed_matrix_kernel.h"

namespace megalodon::ops {
namespace {

uint32_t bits(float x) {
  return std::bit_cast<uint32_t>(x);
}
/// To the nearest, ties to even.
uint32_t nearest_bfloat16(float x) {
  return (bits(x) + 0x7fffu + (bits(x) >> 16 & 1)) >> 16;
}
/// Away from zero and toward zero.
uint32_t larger_bfloat16(float x) {
  return (bits(x) + 0xffffu) >> 16;
}
uint32_t smaller_bfloat16(float x) {
  return bits(x) >> 16;
}
float widen(uint32_t bfloat16) {
  return std::bit_cast<float>(bfloat16 << 16);
}

uint32_t word_at(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}
void put_word(uint8_t* bytes, uint32_t word) {
  std::memcpy(bytes, &word, sizeof word);
}

/// Up to 32 inputs of one row.
struct Group {
  const float* w;
  int64_t size;
};

/// The group's scale, bfloat16.
uint32_t store_q8(const Group& group, uint8_t* codes) {  // four bytes every 64
  float most = 0;
  for (int64_t i = 0; i < group.size; ++i) most = std::max(most, std::abs(group.w[i]));
  const uint32_t scale = larger_bfloat16(most / 127);
  for (int64_t i = 0; i < kFixedGroup; ++i) {
    const float units = i < group.size && scale != 0 ? group.w[i] / widen(scale) : 0;
    codes[i / 4 * 64 + i % 4] = static_cast<uint8_t>(units + 128.5F);
  }
  return scale;
}

/// The group's least value, bfloat16, and above it its scale, the same.
uint32_t store_q4(const Group& group, uint8_t* codes) {  // four bytes every 64
  const auto [least, most] = std::minmax_element(group.w, group.w + group.size);
  const uint32_t low = *least < 0 ? larger_bfloat16(*least) : smaller_bfloat16(*least);
  const uint32_t scale = larger_bfloat16((*most - widen(low)) / 15);
  const auto code = [&](int64_t i) {
    if (i >= group.size || scale == 0) return 0;
    return std::min(static_cast<int>((group.w[i] - widen(low)) / widen(scale) + 0.5F), 15);
  };
  for (int64_t i = 0; i < kFixedGroup / 2; ++i)
    codes[i / 4 * 64 + i % 4] = static_cast<uint8_t>(code(i) | code(i + kFixedGroup / 2) << 4);
  return scale << 16 | low;
}

float widen(float x) {
  return x;
}
float widen(Bfloat16 x) {
  return widen(uint32_t{x.bits});
}

constexpr int64_t kWords = 16;  // that a row has in a record of float32 or bfloat16
constexpr int32_t kMostBits = std::bit_cast<int32_t>(1e38F);

template <FixedType kType>
void store_words(const float* w, uint32_t* words) {
  for (int64_t k = 0; k < kWords; ++k)
    words[k] =
        kType == FixedType::kFloat32 ? bits(w[k]) : nearest_bfloat16(w[2 * k]) | nearest_bfloat16(w[2 * k + 1]) << 16;
}

/// The words of 64 rows into a record, those of an input or two beside each other.
void turn(const uint32_t (&words)[64][kWords], uint8_t* record) {
  for (int64_t row = 0; row < 64; row += 4)
    for (int64_t k = 0; k < kWords; ++k) {
      const std::array<uint32_t, 4> four = {words[row][k], words[row + 1][k], words[row + 2][k], words[row + 3][k]};
      std::memcpy(record + (k * 64 + row) * 4, four.data(), sizeof four);
    }
}

/// One row's share of a record of q8 or q4. `w` are the inputs that the matrix has of it, at most record_inputs.
void store_codes(FixedType type, const Group& w, int64_t row, uint8_t* record) {
  if (type == FixedType::kQ4) return put_word(record + row * 4, store_q4(w, record + 64 + row * 4));
  const auto part = [&](int64_t begin) {
    return Group{w.w + std::min(begin, w.size), std::clamp(w.size - begin, int64_t{0}, kFixedGroup)};
  };
  const uint32_t first = store_q8(part(0), record + 64 + row * 4);
  put_word(record + row * 4, first | store_q8(part(kFixedGroup), record + 64 + 512 + row * 4) << 16);
}

/// `size` of kInputs numbers, filled up with zeros. Returns the bits of the largest magnitude, or of what is no number.
template <int64_t kInputs, class T>
int32_t read_row(const T* w, int64_t size, float* to) {
  T some[kInputs] = {};
  std::copy_n(w, size, some);
  int32_t most = 0;
  for (int64_t i = 0; i < kInputs; ++i) {
    to[i] = widen(some[i]);
    most = std::max(most, static_cast<int32_t>(bits(to[i]) & 0x7fffffffu));
  }
  return most;
}

/// Returns whether all numbers could be stored. Records of words are put together row by row in the first level cache,
/// several at a time, as memory is read in more than a line at once.
template <FixedType kType, class T>
bool store_block(const T* w, const FixedView& view, int64_t block, uint8_t* bytes) {
  constexpr FixedLayout kLayout = fixed_layout(kType);
  constexpr bool kCodes = kType == FixedType::kQ8 || kType == FixedType::kQ4;
  constexpr int64_t kRows = kLayout.block_rows, kRecords = kCodes ? 1 : 4;
  const int64_t first = block * kRows, rows = std::min(kRows, view.O - first);
  uint32_t words[kRecords][kCodes ? 1 : kRows][kWords] = {};
  int32_t most = 0;
  for (int64_t record = 0; record < view.records(); record += kRecords) {
    const int64_t records = std::min(kRecords, view.records() - record);
    uint8_t* to = bytes + record * kLayout.record_bytes;
    if (kCodes) std::fill_n(to, kLayout.record_bytes, uint8_t{0});
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t r = 0; r < records; ++r) {
        const int64_t input = (record + r) * kLayout.record_inputs;
        const int64_t inputs = std::min(kLayout.record_inputs, view.I - input);
        float numbers[kLayout.record_inputs];
        const int32_t largest = read_row<kLayout.record_inputs>(w + (first + row) * view.I + input, inputs, numbers);
        most = std::max(most, largest);
        if constexpr (!kCodes)
          store_words<kType>(numbers, words[r][row]);
        else if (largest <= kMostBits)
          store_codes(kType, {numbers, inputs}, row, to);
      }
    if constexpr (!kCodes)
      for (int64_t r = 0; r < records; ++r) turn(words[r], to + r * kLayout.record_bytes);
  }
  return most <= kMostBits;
}

template <class T>
bool store_block_of(const T* w, const FixedView& view, int64_t block, uint8_t* bytes) {
  switch (view.type) {
    case FixedType::kFloat32:
      return store_block<FixedType::kFloat32>(w, view, block, bytes);
    case FixedType::kBfloat16:
      return store_block<FixedType::kBfloat16>(w, view, block, bytes);
    case FixedType::kQ8:
      return store_block<FixedType::kQ8>(w, view, block, bytes);
    case FixedType::kQ4:
      return store_block<FixedType::kQ4>(w, view, block, bytes);
  }
  return false;
}

/// Input i of a record.
float restore(FixedType type, int64_t row, int64_t i, const uint8_t* record) {
  const auto half = [](uint32_t word, bool upper) { return widen(upper ? word >> 16 : word & 0xffffu); };
  switch (type) {
    case FixedType::kFloat32:
      return std::bit_cast<float>(word_at(record + (i * 64 + row) * 4));
    case FixedType::kBfloat16:
      return half(word_at(record + (i / 2 * 64 + row) * 4), i % 2 == 1);
    case FixedType::kQ8: {
      const int code = record[64 + i / 4 * 64 + row * 4 + i % 4];
      return static_cast<float>(code - 128) * half(word_at(record + row * 4), i >= kFixedGroup);
    }
    case FixedType::kQ4: {
      const int64_t j = i % (kFixedGroup / 2);
      const int both = record[64 + j / 4 * 64 + row * 4 + j % 4], code = i < kFixedGroup / 2 ? both & 15 : both >> 4;
      const uint32_t word = word_at(record + row * 4);
      return static_cast<float>(code) * half(word, true) + half(word, false);
    }
  }
  return 0;
}

/// Whether test(block) holds for all blocks, which are tested on all cores.
template <class Test>
bool all_blocks(const FixedView& view, const Test& test) {
  std::atomic<bool> all = true;
  parallel_for(view.blocks(), [&](int64_t block) {
    if (!test(block)) all.store(false, std::memory_order_relaxed);
  });
  return all;
}

/// Of the parts of a word that are one number each, without its sign: how large they may be.
struct WordLimits {
  uint32_t low_bits, low, high_bits, high;
};

/// As large as fix_matrix() makes them of numbers up to 1e38: what they stand for is finite, times any code.
WordLimits word_limits(FixedType type) {
  constexpr float kMost = 1e38F;
  const auto halves = [](uint32_t low, uint32_t high) { return WordLimits{0x7fff, low, 0x7fff0000u, high << 16}; };
  switch (type) {
    case FixedType::kFloat32:
      return {0, 0, 0x7fffffffu, bits(kMost)};
    case FixedType::kBfloat16:
      return halves(nearest_bfloat16(kMost), nearest_bfloat16(kMost));
    case FixedType::kQ8:
      return halves(larger_bfloat16(kMost / 127), larger_bfloat16(kMost / 127));
    case FixedType::kQ4:
      return halves(larger_bfloat16(kMost), larger_bfloat16((kMost + widen(larger_bfloat16(kMost))) / 15));
  }
  return {};
}

}  // namespace

template <class T>
bool fixed_store_cpu(const T* w, const FixedView& view, uint8_t* bytes) {
  return all_blocks(view,
                    [&](int64_t block) { return store_block_of(w, view, block, bytes + block * view.block_bytes()); });
}

template bool fixed_store_cpu(const float*, const FixedView&, uint8_t*);
template bool fixed_store_cpu(const Bfloat16*, const FixedView&, uint8_t*);

bool fixed_is_finite_cpu(const FixedView& view) {
  const FixedLayout layout = fixed_layout(view.type);
  const bool codes = view.type == FixedType::kQ8 || view.type == FixedType::kQ4;
  const int64_t words = codes ? layout.block_rows : layout.record_bytes / 4;
  const WordLimits limits = word_limits(view.type);
  return all_blocks(view, [&](int64_t block) {
    const uint8_t* record = view.bytes + block * view.block_bytes();
    uint32_t low = 0, high = 0;
    for (int64_t r = 0; r < view.records(); ++r, record += layout.record_bytes)
      for (int64_t i = 0; i < words; ++i) {
        const uint32_t word = word_at(record + i * 4);
        low = std::max(low, word & limits.low_bits);
        high = std::max(high, word & limits.high_bits);
      }
    return low <= limits.low && high <= limits.high;
  });
}

void fixed_restore_cpu(const FixedView& view, float* w) {
  const FixedLayout layout = fixed_layout(view.type);
  parallel_for(view.O, [&](int64_t o) {
    const int64_t row = o % layout.block_rows;
    const uint8_t* block = view.bytes + o / layout.block_rows * view.block_bytes();
    for (int64_t i = 0; i < view.I; ++i)
      w[o * view.I + i] =
          restore(view.type, row, i % layout.record_inputs, block + i / layout.record_inputs * layout.record_bytes);
  });
}

void fixed_unpack_cpu(const FixedView& view, int64_t first, int64_t rows, float* w) {
  const bool pairs = view.type == FixedType::kBfloat16;
  parallel_for(rows / 64, [&](int64_t part) {
    const uint8_t* words = view.bytes + (first / 64 + part) * view.block_bytes();
    for (int64_t i = 0; i < view.I; ++i) {
      const uint8_t* of_input = words + (pairs ? i / 2 : i) * 64 * 4;
      float* to = w + i * rows + part * 64;
      const uint32_t shift = pairs && i % 2 == 0 ? 16 : 0, mask = pairs ? 0xffff0000u : 0xffffffffu;
      for (int64_t row = 0; row < 64; ++row)
        to[row] = std::bit_cast<float>(word_at(of_input + row * 4) << shift & mask);
    }
  });
}

}  // namespace megalodon::ops
