// How often tokens occurred lately, in memory that does not grow with the stream.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

namespace megalodon {

struct TokenCount {
  int64_t token = 0, count = 0;
};

/// Counts the last `last_n` tokens, or all for -1.
class TokenHistory {
 public:
  explicit TokenHistory(int64_t last_n) : last_n_(last_n) {}
  void add(int64_t token);
  /// In order of tokens; every count is at least 1.
  const std::vector<TokenCount>& counts() const { return counts_; }

  /// The last tokens, oldest first; for -1 pairs of token and count.
  nlohmann::ordered_json state() const;
  /// Throws Error for what state() of a history of the same length cannot have made.
  void load_state(const nlohmann::ordered_json& state);

 private:
  void count(int64_t token, int64_t change);

  int64_t last_n_;
  std::vector<int64_t> window_;  // a ring once it is full; unused for -1
  size_t oldest_ = 0;
  std::vector<TokenCount> counts_;
};

}  // namespace megalodon
