// From float32 to the stored bytes and back. Done once per matrix, so that this is plain code; what products read is
// decoded by fixed_matrix_cpu.cc.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/parallel.h"
#include "ops/fixed_matrix/fixed_matrix_kernel.h"

namespace megalodon::ops {
namespace {

constexpr int64_t kGroup = 32;

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
  for (int64_t i = 0; i < kGroup; ++i) {
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
  for (int64_t i = 0; i < kGroup / 2; ++i)
    codes[i / 4 * 64 + i % 4] = static_cast<uint8_t>(code(i) | code(i + kGroup / 2) << 4);
  return scale << 16 | low;
}

/// One row's share of a record. `w` are the inputs that the matrix has of it, at most record_inputs.
void store_row(FixedType type, const Group& w, int64_t row, uint8_t* record) {
  const auto part = [&](int64_t begin) {
    return Group{w.w + std::min(begin, w.size), std::clamp(w.size - begin, int64_t{0}, kGroup)};
  };
  switch (type) {
    case FixedType::kFloat32:
      for (int64_t i = 0; i < w.size; ++i) put_word(record + (i * 64 + row) * 4, bits(w.w[i]));
      return;
    case FixedType::kBfloat16:
      for (int64_t i = 0; i < w.size; i += 2)
        put_word(record + (i / 2 * 64 + row) * 4,
                 nearest_bfloat16(w.w[i]) | (i + 1 < w.size ? nearest_bfloat16(w.w[i + 1]) << 16 : 0));
      return;
    case FixedType::kQ8: {
      const uint32_t first = store_q8(part(0), record + 64 + row * 4);
      put_word(record + row * 4, first | store_q8(part(kGroup), record + 64 + 512 + row * 4) << 16);
      return;
    }
    case FixedType::kQ4:
      put_word(record + row * 4, store_q4(w, record + 64 + row * 4));
      return;
  }
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
      return static_cast<float>(code - 128) * half(word_at(record + row * 4), i >= kGroup);
    }
    case FixedType::kQ4: {
      const int64_t j = i % (kGroup / 2);
      const int both = record[64 + j / 4 * 64 + row * 4 + j % 4], code = i < kGroup / 2 ? both & 15 : both >> 4;
      const uint32_t word = word_at(record + row * 4);
      return static_cast<float>(code) * half(word, true) + half(word, false);
    }
  }
  return 0;
}

/// Calls body(row, row in its block, first input, inputs, offset of the record) for all that W has, on all cores.
template <class Body>
void for_each_part(const FixedView& view, const Body& body) {
  const FixedLayout layout = fixed_layout(view.type);
  parallel_for(view.blocks(), [&](int64_t block) {
    const int64_t first = block * layout.block_rows, rows = std::min(layout.block_rows, view.O - first);
    for (int64_t record = 0; record < view.records(); ++record) {
      const int64_t input = record * layout.record_inputs, inputs = std::min(layout.record_inputs, view.I - input);
      const int64_t offset = block * view.block_bytes() + record * layout.record_bytes;
      for (int64_t row = 0; row < rows; ++row) body(first + row, row, input, inputs, offset);
    }
  });
}

}  // namespace

void fixed_store_cpu(const float* w, const FixedView& view, uint8_t* bytes) {
  std::fill_n(bytes, view.blocks() * view.block_bytes(), uint8_t{0});
  for_each_part(view, [&](int64_t o, int64_t row, int64_t input, int64_t inputs, int64_t offset) {
    store_row(view.type, {w + o * view.I + input, inputs}, row, bytes + offset);
  });
}

void fixed_restore_cpu(const FixedView& view, float* w) {
  for_each_part(view, [&](int64_t o, int64_t row, int64_t input, int64_t inputs, int64_t offset) {
    for (int64_t i = 0; i < inputs; ++i) w[o * view.I + input + i] = restore(view.type, row, i, view.bytes + offset);
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
