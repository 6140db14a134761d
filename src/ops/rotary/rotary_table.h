// Cosines and sines for the CPU kernels that rotate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/parallel.h"

namespace megalodon::ops {

/// cos and sin of position · frequency: one row per position where positions repeat or are dense (training), else one
/// per token (decoding). Depends on the arguments alone, not on the number of threads.
class RotaryTable {
 public:
  /// position [tokens] >= 0, which must outlive the table; frequencies [pairs]. With `inverse` the angles are negative.
  RotaryTable(const int64_t* position, int64_t tokens, const float* frequencies, int64_t pairs, bool inverse);

  const float* cosine(int64_t token) const {
    return table_.data() + (by_position_ ? position_[token] : token) * 2 * width_;
  }
  const float* sine(int64_t token) const { return cosine(token) + width_; }

 private:
  const int64_t* position_;
  int64_t width_;  // pairs, padded
  bool by_position_ = false;
  std::vector<float> table_;
};

/// parallel_for over items of `cost` elements each, in blocks that are worth a thread.
template <class Item>
void for_items(int64_t items, int64_t cost, const Item& item) {
  constexpr int64_t kBlock = 1 << 14;  // elements per task; below that one thread is faster than starting several
  const int64_t block = std::max<int64_t>(1, kBlock / cost);
  parallel_for((items + block - 1) / block, [&](int64_t at) {
    for (int64_t i = at * block; i < std::min(items, (at + 1) * block); ++i) item(i);
  });
}

}  // namespace megalodon::ops
