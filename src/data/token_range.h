// The span of token ids that a file holds: what must lie within a model's vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace megalodon::data {

struct TokenRange {
  int64_t smallest = 0;  // below 0 only where a file of signed integers has such, which no tokenizer makes
  int64_t largest = -1;  // of no tokens

  /// Tokens as they are stored; `dtype_code` is that of token_index.h. Runs at the speed of memory.
  void add(std::span<const std::byte> stored, int dtype_code);
};

}  // namespace megalodon::data
