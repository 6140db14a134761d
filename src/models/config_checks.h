// What validate() of a model's configuration says of single values, each in the same words.
#pragma once

#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"

namespace megalodon {

/// Above is no network but a slip of the pen; below, sizes of matrices cannot overflow.
constexpr int64_t kLargestSize = int64_t{1} << 31;

inline void check_size(const char* name, int64_t value, int64_t least = 1) {
  if (value < least || value > kLargestSize)
    fail_usage("[model.{}] expected at least {} and at most {}, got {}", name, least, kLargestSize, value);
}

inline void check_positive(const char* name, double value) {
  if (!(value > 0)) fail_usage("[model.{}] expected a positive number, got {}", name, value);
}

inline void check_probability(const char* name, double value) {
  if (!(value >= 0 && value < 1)) fail_usage("[model.{}] expected a probability in [0, 1), got {}", name, value);
}

inline void check_one_of(const char* name, const std::string& value, const std::vector<std::string>& words) {
  if (std::find(words.begin(), words.end(), value) == words.end())
    fail_usage("[model.{}] expected {}, got \"{}\"", name, fmt::join(words, ", "), value);
}

/// Of the fields that every language model has.
inline void check_vocabulary(int64_t vocab_size, int64_t output_size, bool share_emb) {
  check_size("vocab_size", vocab_size);
  if (output_size == 0 || output_size < -1 || output_size > kLargestSize)
    fail_usage("[model.output_size] expected -1 or at least 1 and at most {}, got {}", kLargestSize, output_size);
  if (share_emb && output_size != -1 && output_size != vocab_size)
    fail_usage("[model.share_emb] the output matrix can be the embedding only if output_size ({}) is vocab_size ({})",
               output_size, vocab_size);
}

}  // namespace megalodon
