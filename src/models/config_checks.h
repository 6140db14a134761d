// What validate() of a model's configuration says of single values, each in the same words.
#pragma once

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

namespace megalodon {

/// Above is no network but a slip of the pen; below, sizes of matrices cannot overflow.
constexpr int64_t kLargestSize = int64_t{1} << 31;

inline void check_size(const char* key, int64_t value, int64_t least = 1) {
  if (value < least || value > kLargestSize)
    fail_usage("[{}] expected at least {} and at most {}, got {}", key, least, kLargestSize, value);
}

/// Each at least `least`.
inline void check_sizes(const std::vector<std::pair<const char*, int64_t>>& sizes, int64_t least = 1) {
  for (const auto& [key, value] : sizes) check_size(key, value, least);
}

/// Of a factor that makes a matrix together with another size.
inline void check_factor(const char* key, int64_t value, const char* other, int64_t size) {
  if (value > kLargestSize / size)
    fail_usage("[{}] times {} = {} expected at most {}, got {}", key, other, size, kLargestSize, value);
}

inline void check_positive(const char* key, double value) {
  if (!(value > 0 && std::isfinite(value))) fail_usage("[{}] expected a positive number, got {}", key, value);
}

inline void check_probability(const char* key, double value) {
  if (!(value >= 0 && value < 1)) fail_usage("[{}] expected a probability in [0, 1), got {}", key, value);
}

inline void check_one_of(const char* key, const std::string& value, const std::vector<std::string>& words) {
  if (std::find(words.begin(), words.end(), value) == words.end())
    fail_usage("[{}] expected {}, got \"{}\"", key, fmt::join(words, ", "), value);
}

/// Of the fields that every language model has.
inline void check_vocabulary(int64_t vocab_size, int64_t output_size, bool share_emb) {
  check_size("model.vocab_size", vocab_size);
  if (output_size == 0 || output_size < -1 || output_size > kLargestSize)
    fail_usage("[model.output_size] expected -1 or at least 1 and at most {}, got {}", kLargestSize, output_size);
  if (share_emb && output_size != -1 && output_size != vocab_size)
    fail_usage("[model.share_emb] the output matrix can be the embedding only if output_size ({}) is vocab_size ({})",
               output_size, vocab_size);
}

}  // namespace megalodon
